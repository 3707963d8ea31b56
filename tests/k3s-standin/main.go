// Command k3s is a stand-in for K3s in the tests of the node image builder: it is made of real Kubernetes, reads and
// writes the files that K3s does, and always says that it is a stand-in. README.md tells what it leaves out.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/sirupsen/logrus"
	"k8s.io/component-base/version"
)

func main() {
	name := filepath.Base(os.Args[0])
	if run, ok := components[name]; ok {
		run()
		return
	}
	argv := os.Args[1:]
	if wrapped[name] { // `kubectl` and `ctr` may be links to this binary
		argv = append([]string{name}, argv...)
	}
	logrus.SetOutput(os.Stderr)
	if err := dispatch(argv); err != nil {
		logrus.Fatalf("Error: %v", err)
	}
}

func dispatch(argv []string) error {
	if len(argv) == 0 {
		return usage()
	}
	rest := argv[1:]
	switch argv[0] {
	case "--version", "-v", "version":
		fmt.Printf("k3s version %s (standin)\ngo version %s\n", version.Get().GitVersion, runtime.Version())
		return nil
	case "server":
		return runServer(rest)
	case "agent":
		return runAgent(rest)
	case "kubectl":
		return runKubectl(rest)
	case "ctr":
		return runCtr(rest)
	case "etcd-snapshot":
		return runSnapshot(rest)
	case "token":
		return runToken(rest)
	}
	return usage()
}

func usage() error {
	return fmt.Errorf("standin: usage: k3s [--version] server|agent|kubectl|ctr|etcd-snapshot|token")
}
