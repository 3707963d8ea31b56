package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/sirupsen/logrus"
)

// importLimit is for one archive; ctr must not hang a start for ever.
const importLimit = 15 * time.Minute

// zstdWindow is the real importer's limit: archives made with --long=27 are refused there, so here too.
const zstdWindow = 1 << 25

// imported is what .cache.json remembers of an archive.
type imported struct {
	Size    int64     `json:"size"`
	ModTime time.Time `json:"modTime"`
	Images  []string  `json:"images"`
}

// fresh says that an archive need not be imported again.
func (i imported) fresh(info fs.FileInfo) bool {
	return i.Images != nil && i.Size == info.Size() && !info.ModTime().After(i.ModTime)
}

// importImages loads every archive in agent/images. As with the real one a broken archive is only logged.
func (a *agent) importImages(ctx context.Context) error {
	dir := filepath.Join(a.dir, "images")
	cache, conditional, err := readCache(dir)
	if err != nil {
		return err
	}
	seen := map[string]imported{}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() || !isArchive(path) {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if known, ok := cache[path]; ok && conditional && known.fresh(info) {
			logrus.Infof("Skipping import of %s, unchanged since it was imported", path)
			seen[path] = known
			return nil
		}
		names, err := a.importArchive(ctx, path)
		if err != nil {
			logrus.Errorf("Error encountered while importing %s: %v", path, err)
			return ctx.Err()
		}
		seen[path] = imported{Size: info.Size(), ModTime: info.ModTime().UTC(), Images: names}
		return nil
	})
	if err != nil {
		return fmt.Errorf("failed to import images: %w", err)
	}
	if !conditional {
		return nil
	}
	return writeCache(dir, seen)
}

func isArchive(path string) bool {
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"} {
		if strings.HasSuffix(path, suffix) {
			return true
		}
	}
	return false
}

// readCache gives the earlier imports; without the file every archive is imported at every start.
func readCache(dir string) (map[string]imported, bool, error) {
	text, err := os.ReadFile(filepath.Join(dir, ".cache.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	cache := map[string]imported{}
	if err := json.Unmarshal(text, &cache); err != nil && len(text) > 0 {
		logrus.Warnf("standin: ignoring an unreadable .cache.json: %v", err)
	}
	return cache, true, nil
}

// writeCache overwrites the file in place and never makes it: its existence is what asks for the cache.
func writeCache(dir string, cache map[string]imported) error {
	text, err := json.Marshal(cache)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(dir, ".cache.json"), os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}

func (a *agent) importArchive(ctx context.Context, path string) ([]string, error) {
	logrus.Infof("Importing images from %s", path)
	started := time.Now()
	names, err := imageNames(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, importLimit)
	defer cancel()
	// Not unpacked: that happens when a container is made, for the images that are used at all.
	if err := a.ctr(ctx, "images", "import", "--local", "--all-platforms", "--no-unpack", path); err != nil {
		return nil, err
	}
	for _, name := range names {
		err := a.ctr(ctx, "images", "label", name, "io.cattle.k3s.pinned=pinned", "io.cri-containerd.pinned=pinned")
		if err != nil {
			return nil, err
		}
	}
	logrus.Infof("Imported images from %s in %s", path, time.Since(started))
	return names, nil
}

func (a *agent) ctr(ctx context.Context, argv ...string) error {
	argv = append([]string{"--address", containerdSocket(), "--namespace", "k8s.io"}, argv...)
	out, err := exec.CommandContext(ctx, filepath.Join(a.bin, "ctr"), argv...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ctr %s: %w: %s", argv[4], err, strings.TrimSpace(string(out)))
	}
	return nil
}

// imageNames reads the names an archive gives to its images, in docker's or in OCI's form.
func imageNames(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var stream io.Reader = file
	switch ext := filepath.Ext(path); ext {
	case ".gz", ".tgz":
		if stream, err = gzip.NewReader(file); err != nil {
			return nil, err
		}
	case ".zst", ".tzst":
		decoder, err := zstd.NewReader(file, zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		defer decoder.Close()
		stream = decoder
	}
	names := []string{}
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		switch header.Name {
		case "manifest.json":
			var manifest []struct{ RepoTags []string }
			if err := json.NewDecoder(archive).Decode(&manifest); err != nil {
				return nil, err
			}
			for _, image := range manifest {
				names = addNames(names, image.RepoTags...)
			}
		case "index.json":
			var index struct {
				Manifests []struct{ Annotations map[string]string }
			}
			if err := json.NewDecoder(archive).Decode(&index); err != nil {
				return nil, err
			}
			for _, image := range index.Manifests {
				names = addNames(names, image.Annotations["io.containerd.image.name"])
			}
		}
	}
}

// addNames adds names in full, each once.
func addNames(names []string, more ...string) []string {
	for _, name := range more {
		first, rest, ok := strings.Cut(name, "/")
		switch {
		case name == "":
			continue
		case !ok:
			name = "docker.io/library/" + name
		case !strings.ContainsAny(first, ".:") && first != "localhost":
			name = "docker.io/" + first + "/" + rest
		}
		known := false
		for _, other := range names {
			known = known || other == name
		}
		if !known {
			names = append(names, name)
		}
	}
	return names
}
