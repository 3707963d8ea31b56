# Chores anyone can run; `./dev RECIPE` installs what they need first.

set shell := ["bash", "-euo", "pipefail", "-c"]

static := "x86_64-unknown-linux-gnu"
builder := "target/release/builder"
# The lock that `image` builds from: builder.lock, with what this machine can have (tests/image.sh)
lock := "target/image.lock"
# The flags of the stand-in's build: with others all of Kubernetes would be compiled a second time
go_env := "CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false'"

# List the recipes
default:
    @just --list

# Build the programs: builder for this host, firstboot as one static program
build:
    cargo build --release --quiet --package builder
    just firstboot

# firstboot, static and without this machine's paths: its bytes are an input of every image
firstboot:
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=/src" \
      cargo build --release --quiet --package firstboot --target {{ static }}

# Set up everything and build the image of a profile (the README's first command)
image profile="worker": build
    tests/image.sh {{ profile }}

# Build the image of a profile, then boot it; further arguments go to `builder boot`
boot profile="worker" *args: (image profile)
    {{ builder }} boot --profile {{ profile }} {{ args }}

# Build an image of target/image.lock again and compare bit for bit
verify image: build
    {{ builder }} verify {{ image }} --lock {{ lock }}

# Everything the gate runs (the README's second command)
test: lint unit e2e

# Formatting and lints, warnings as errors
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --quiet -- --deny warnings

# Unit and program tests; the stand-in's after its build, whose compiled packages they share
unit:
    cargo test --workspace --exclude e2e --quiet
    tests/k3s-standin/build.sh
    cd tests/k3s-standin && {{ go_env }} go vet ./...
    cd tests/k3s-standin && {{ go_env }} go test ./...

# Whole images: builds, kills, boots (a sample chosen by the commit; `just full` runs all)
e2e: e2e-images
    E2E_IMAGES=target/e2e-images cargo test --package e2e --tests --no-fail-fast -- --test-threads=1 --nocapture

# The stand-in, helm and the images that e2e tests use; their paths are in target/e2e-images
e2e-images: build
    tests/k3s-standin/build.sh
    tests/helm.sh
    tests/image.sh all >target/e2e-images

# All tests without sampling, or those of the parts named; writes docs/results.md (`--again`: also what passed on this commit)
full *args:
    tests/full.sh {{ args }}

# Licences, advisories and sources of all crates
deny:
    cargo deny check

# The speed table, against mkosi in the same run
bench *args: build
    benches/run.sh {{ args }}

# firstboot's own time, memory and size, on a root prefix; writes benches/firstboot.md
bench-firstboot *args: firstboot
    nice python3 benches/firstboot.py {{ args }}

# What people wait for at the operator's commands; writes benches/builder.md (needs target/image.lock)
bench-builder *args: build
    nice python3 benches/builder.py {{ args }}

# The documents against schemas, packages and files (needs python3 3.11); `--write` renews tables
docs *args:
    python3 docs/check.py {{ args }}
