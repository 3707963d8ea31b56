#!/usr/bin/env bash
# An upload to the Proxmox double beside curl's: speed and memory of `builder push`.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --release --package builder --test proxmox -- --ignored --nocapture upload
