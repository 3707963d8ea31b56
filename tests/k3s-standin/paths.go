package main

import (
	"os"
	"path/filepath"
)

// under puts a system path below K3S_STANDIN_ROOT, so that several nodes can live on one test host.
func under(path string) string { return filepath.Join("/", os.Getenv("K3S_STANDIN_ROOT"), path) }

// shared says that other nodes live on this host, so nothing host-wide (cgroups, kernel settings) is ours.
func shared() bool { return os.Getenv("K3S_STANDIN_ROOT") != "" }

func defaultDataDir() string { return under("/var/lib/rancher/k3s") }
func runDir() string         { return under("/run/k3s") }
func kubeletRoot() string    { return under("/var/lib/kubelet") }
func passwordFile() string   { return under("/etc/rancher/node/password") }
func adminKubeconfig() string {
	return under("/etc/rancher/k3s/k3s.yaml")
}

// writeFile replaces a file in one step, making its folder when it is absent.
func writeFile(path string, mode os.FileMode, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(content); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Chmod(mode); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
