package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"
)

var made = time.Unix(946684800, 0)

// tarOf packs files in the order given: name, content, name, content…
func tarOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := 0; i < len(files); i += 2 {
		header := &tar.Header{Name: files[i], Mode: 0o755, Size: int64(len(files[i+1])), ModTime: made}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, files[i+1])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstdOf(t *testing.T, content []byte) []byte {
	t.Helper()
	coder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return coder.EncodeAll(content, nil)
}

func TestExtract(t *testing.T) {
	dir := t.TempDir()
	packed := func(text string) fstest.MapFS {
		return fstest.MapFS{"payload/" + text + ".tar.zst": {Data: zstdOf(t, tarOf(t, "bin/k3s", "mark", "bin/ctr", text))}}
	}
	for _, sum := range []string{"one", "one", "two"} {
		bin, err := extractFrom(packed(sum), "payload/"+sum+".tar.zst", dir)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, "data", sum, "bin"); bin != want {
			t.Errorf("extracted to %s", bin)
		}
		info, err := os.Stat(filepath.Join(dir, "data/current/bin/ctr"))
		if err != nil || !info.ModTime().Equal(made) || info.Mode().Perm() != 0o755 {
			t.Errorf("ctr: %v, %v", info, err)
		}
	}
	for link, want := range map[string]string{"current": "two", "previous": "one", "cni/bridge": "two/bin/bridge"} {
		got, err := os.Readlink(filepath.Join(dir, "data", link))
		if err != nil || got != filepath.Join(dir, "data", want) {
			t.Errorf("%s points to %s, %v", link, got, err)
		}
	}
}

func TestExtractLeavesNothingHalfDone(t *testing.T) {
	dir := t.TempDir()
	whole := zstdOf(t, tarOf(t, "bin/k3s", "mark", "bin/ctr", "x"))
	source := fstest.MapFS{"payload/a.tar.zst": {Data: whole[:len(whole)/2]}}
	if _, err := extractFrom(source, "payload/a.tar.zst", dir); err == nil {
		t.Fatal("half an archive was accepted")
	}
	for _, name := range []string{"data/a", "data/a-tmp"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

func TestImageCacheIsUsedOnlyWhenItsFileExists(t *testing.T) {
	dir := t.TempDir()
	if _, conditional, err := readCache(dir); err != nil || conditional {
		t.Errorf("without the file: %v, %v", conditional, err)
	}
	if err := writeCache(dir, nil); !os.IsNotExist(err) {
		t.Errorf("the file was made: %v", err)
	}
	path := filepath.Join(dir, ".cache.json")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, conditional, err := readCache(dir); err != nil || !conditional {
		t.Errorf("with an empty file: %v, %v", conditional, err)
	}
	want := map[string]imported{"/a.tar": {Size: 3, ModTime: made.UTC(), Images: []string{"docker.io/a/b:1"}}}
	if err := writeCache(dir, want); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if expect := `{"/a.tar":{"size":3,"modTime":"2000-01-01T00:00:00Z","images":["docker.io/a/b:1"]}}`; string(text) != expect {
		t.Errorf("wrote %s, %v", text, err)
	}
	if got, _, err := readCache(dir); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %v, %v", got, err)
	}
}

func TestChangedArchiveIsNotFresh(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	known := imported{Size: 3, ModTime: info.ModTime(), Images: []string{}}
	if !known.fresh(info) {
		t.Error("the same archive is not fresh")
	}
	for name, other := range map[string]imported{
		"another size": {Size: 4, ModTime: info.ModTime(), Images: []string{}},
		"newer":        {Size: 3, ModTime: info.ModTime().Add(-time.Second), Images: []string{}},
		"no list":      {Size: 3, ModTime: info.ModTime()},
	} {
		if other.fresh(info) {
			t.Errorf("%s: fresh", name)
		}
	}
}

func TestImageNames(t *testing.T) {
	docker := tarOf(t, "layer", "x", "manifest.json", `[{"RepoTags":["rancher/mirrored-pause:3.10.2","docker.io/a/b:1"]}]`)
	oci := tarOf(t, "index.json", `{"manifests":[{"annotations":{"io.containerd.image.name":"reg.example/a:1"}},{}]}`)
	for name, c := range map[string]struct {
		content []byte
		want    []string
	}{
		"a.tar":     {docker, []string{"docker.io/rancher/mirrored-pause:3.10.2", "docker.io/a/b:1"}},
		"a.tar.zst": {zstdOf(t, docker), []string{"docker.io/rancher/mirrored-pause:3.10.2", "docker.io/a/b:1"}},
		"b.tar":     {oci, []string{"reg.example/a:1"}},
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, c.content, 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := imageNames(path); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
