package main

import (
	"archive/tar"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"github.com/sirupsen/logrus"
)

// payload holds one `<sha256>.tar.zst` with containerd, runc and the CNI plugins. build.sh puts it there; a plain
// `go build` or `go test` finds only the note that says so.
//
//go:embed payload
var payload embed.FS

// plugins get a link in data/cni, where containerd looks for them.
var plugins = []string{"bridge", "host-local", "loopback", "portmap"}

// extract unpacks the helper programs, once for each content, and gives the folder they are in.
func extract(dataDir string) (string, error) {
	found, err := fs.Glob(payload, "payload/*.tar.zst")
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("standin: this binary holds no helper programs; make it with build.sh (%v)", err)
	}
	return extractFrom(payload, found[0], dataDir)
}

func extractFrom(source fs.FS, name, dataDir string) (string, error) {
	data := filepath.Join(dataDir, "data")
	sum, _, _ := strings.Cut(path.Base(name), ".")
	dir := filepath.Join(data, sum)
	bin := filepath.Join(dir, "bin")
	// As in the real one this is the whole check: nothing is hashed again at start.
	if _, err := os.Stat(filepath.Join(bin, "k3s")); err == nil {
		return bin, nil
	}
	logrus.Infof("Preparing data dir %s", dir)
	if err := os.MkdirAll(data, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(data, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("failed to lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(filepath.Join(bin, "k3s")); err == nil {
		return bin, nil // another process was faster
	}
	tmp := dir + "-tmp"
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(dir)); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := unpack(source, name, tmp); err != nil {
		return "", fmt.Errorf("failed to unpack %s: %w", name, err)
	}
	if err := relink(data, dir); err != nil {
		return "", err
	}
	return bin, os.Rename(tmp, dir)
}

// relink points `current` at the new folder, keeps the old one as `previous`, and links the CNI plugins.
func relink(data, dir string) error {
	current := filepath.Join(data, "current")
	if old, err := os.Readlink(current); err == nil && old != dir {
		if err := replaceLink(old, filepath.Join(data, "previous")); err != nil {
			return err
		}
	}
	if err := replaceLink(dir, current); err != nil {
		return err
	}
	for _, plugin := range plugins {
		if err := replaceLink(filepath.Join(dir, "bin", plugin), filepath.Join(data, "cni", plugin)); err != nil {
			return err
		}
	}
	return nil
}

func unpack(source fs.FS, name, target string) error {
	file, err := source.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	stream, err := zstd.NewReader(file)
	if err != nil {
		return err
	}
	defer stream.Close()
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackOne(archive, header, filepath.Join(target, path.Clean("/"+header.Name))); err != nil {
			return err
		}
	}
}

func unpackOne(from io.Reader, header *tar.Header, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(to, 0o755)
	case tar.TypeSymlink:
		return os.Symlink(header.Linkname, to)
	case tar.TypeReg:
	default:
		return fmt.Errorf("%s: unexpected type %q", header.Name, header.Typeflag)
	}
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, header.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, from); err != nil {
		file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Chtimes(to, header.ModTime, header.ModTime)
}
