package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// epoch is the time of every file. It is not zero: some programs take zero for "no time".
var epoch = time.Unix(946684800, 0).UTC()

// entry is one file of an archive.
type entry struct {
	name    string
	mode    int64
	content []byte
}

func archive(entries []entry) ([]byte, error) {
	sort.Slice(entries, func(i, j int) bool { return entries[i].name < entries[j].name })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.content)), ModTime: epoch,
			Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// payload packs the programs in a folder as `<into>/<sha256>.tar.zst`, with a marker in the place of K3s' own program.
func payload(folder, into string) error {
	found, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	entries := []entry{{"bin/k3s", 0o644, []byte("standin: this only marks a complete folder\n")}}
	for _, one := range found {
		content, err := os.ReadFile(filepath.Join(folder, one.Name()))
		if err != nil {
			return err
		}
		entries = append(entries, entry{"bin/" + one.Name(), 0o755, content})
	}
	packed, err := archive(entries)
	if err != nil {
		return err
	}
	// One worker: with more, the bytes would depend on how the machine schedules them.
	coder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return err
	}
	packed = coder.EncodeAll(packed, nil)
	return os.WriteFile(filepath.Join(into, digest(packed)+".tar.zst"), packed, 0o644)
}

// images writes a docker archive with one image for each NAME=PROGRAM; the program is all that is in it.
func images(file string, wanted []string) error {
	var entries []entry
	var manifest []map[string]any
	for _, one := range wanted {
		name, program, ok := strings.Cut(one, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=PROGRAM", one)
		}
		content, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		base := filepath.Base(program)
		layer, err := archive([]entry{{base, 0o755, content}})
		if err != nil {
			return err
		}
		config, err := json.Marshal(map[string]any{
			"architecture": "amd64", "os": "linux", "created": epoch.Format(time.RFC3339),
			"config": map[string]any{"Entrypoint": []string{"/" + base}, "Env": []string{"PATH=/"}, "WorkingDir": "/"},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		})
		if err != nil {
			return err
		}
		blob := digest(layer) + "/layer.tar"
		entries = append(entries, entry{blob, 0o644, layer}, entry{digest(config) + ".json", 0o644, config})
		manifest = append(manifest, map[string]any{"Config": digest(config) + ".json",
			"RepoTags": []string{name}, "Layers": []string{blob}})
	}
	index, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	packed, err := archive(append(entries, entry{"manifest.json", 0o644, index}))
	if err != nil {
		return err
	}
	return os.WriteFile(file, packed, 0o644)
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
