//go:build integration

// Package integration starts the built stand-in on this host: a server and workers as real processes, each in a
// network namespace and a folder of its own. It needs root, and leaves nothing behind.
package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// host is one node's place: a network namespace and a folder for all its files.
type host struct {
	t       *testing.T
	netns   string
	root    string
	address string
}

// process is a running stand-in and what it has said.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	done chan error
}

func binary(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("OUT")
	if folder == "" {
		folder = "../../../target/k3s-standin"
	}
	path, err := filepath.Abs(filepath.Join(folder, "k3s"))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("run build.sh first: %v", err)
	}
	return path
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// twoHosts gives a server and a worker.
func twoHosts(t *testing.T) (a, b *host) {
	t.Helper()
	pair := hosts(t, 2)
	return pair[0], pair[1]
}

// hosts gives namespaces on one network: a bridge in the first, cables from the others. Each has another one as its
// default route, because the kubelet and the server want one.
func hosts(t *testing.T, count int) []*host {
	t.Helper()
	all := make([]*host, count)
	for i := range all {
		root, err := os.MkdirTemp("", "k3s-standin-")
		if err != nil {
			t.Fatal(err)
		}
		all[i] = &host{t: t, root: root, netns: fmt.Sprintf("standin%d-%d", os.Getpid(), i), address: fmt.Sprintf("10.99.7.%d", i+1)}
		run(t, "ip", "netns", "add", all[i].netns)
		t.Cleanup(all[i].remove)
	}
	run(t, "ip", "-n", all[0].netns, "link", "add", "eth0", "type", "bridge")
	for i, one := range all {
		if i > 0 {
			port := fmt.Sprintf("port%d", i)
			run(t, "ip", "link", "add", port, "netns", all[0].netns, "type", "veth", "peer", "name", "eth0", "netns", one.netns)
			run(t, "ip", "-n", all[0].netns, "link", "set", port, "master", "eth0", "up")
		}
		run(t, "ip", "-n", one.netns, "address", "add", one.address+"/24", "dev", "eth0")
		run(t, "ip", "-n", one.netns, "link", "set", "lo", "up")
		run(t, "ip", "-n", one.netns, "link", "set", "eth0", "up")
		run(t, "ip", "-n", one.netns, "route", "add", "default", "via", all[0].address[:len(all[0].address)-1]+fmt.Sprint((i+1)%count+1))
	}
	return all
}

// remove ends the containers that outlived their agent, as a power-off would, and removes what the node left.
func (h *host) remove() {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		line, _ := os.ReadFile(path)
		if bytes.Contains(line, []byte(h.root+"/")) && bytes.Contains(line, []byte("containerd-shim")) {
			var pid int
			fmt.Sscanf(path, "/proc/%d/", &pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	inside, _ := exec.Command("ip", "netns", "pids", h.netns).Output()
	for _, text := range strings.Fields(string(inside)) {
		var pid int
		fmt.Sscan(text, &pid)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	time.Sleep(300 * time.Millisecond)
	mounts, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- { // the last mounted first
		if fields := strings.Fields(lines[i]); len(fields) > 1 && strings.HasPrefix(fields[1], h.root+"/") {
			syscall.Unmount(fields[1], syscall.MNT_DETACH)
		}
	}
	exec.Command("ip", "netns", "delete", h.netns).Run()
	if h.t.Failed() {
		h.t.Logf("the files of %s stay in %s", h.netns, h.root)
	} else if err := os.RemoveAll(h.root); err != nil {
		h.t.Log(err)
	}
}

// sibling is another machine in the same place. Not t.TempDir: the path of a unix socket must stay short.
func (h *host) sibling(t *testing.T) *host {
	t.Helper()
	root, err := os.MkdirTemp("", "k3s-standin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	return &host{t: t, netns: h.netns, address: h.address, root: root}
}

func (h *host) write(path, text string) {
	h.t.Helper()
	path = filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) read(path string) string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.root, path))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// images puts the airgap images where the agent looks for them.
func (h *host) images() {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(binary(h.t)), "k3s-airgap-images.tar"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("var/lib/rancher/k3s/agent/images/k3s-airgap-images.tar", string(text))
	h.write("var/lib/rancher/k3s/agent/images/.cache.json", "")
}

func (h *host) command(argv ...string) *exec.Cmd {
	// Not `ip netns exec`: that would hide /sys/fs/cgroup.
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.netns, binary(h.t)}, argv...)...)
	cmd.Env = append(os.Environ(), "K3S_STANDIN_ROOT="+h.root)
	return cmd
}

// output runs a short command to its end.
func (h *host) output(argv ...string) (string, error) {
	out, err := h.command(argv...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// start runs a server or an agent until stop or the end of the test.
func (h *host) start(argv ...string) *process {
	h.t.Helper()
	log, err := os.CreateTemp(h.root, "log-*")
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd := h.command(argv...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	p := &process{t: h.t, cmd: cmd, log: log.Name(), done: make(chan error, 1)}
	go func() { p.done <- cmd.Wait(); close(p.done) }()
	h.t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		p.t.Errorf("%s did not stop", p.cmd)
		p.cmd.Process.Kill()
	}
}

// logs are the outputs of all that was started here.
func (h *host) logs() (texts []string) {
	paths, _ := filepath.Glob(filepath.Join(h.root, "log-*"))
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		texts = append(texts, string(text))
	}
	return texts
}

func (p *process) text() string {
	text, _ := os.ReadFile(p.log)
	return string(text)
}

// says waits for a line of the log.
func (p *process) says(what string, within time.Duration) {
	p.t.Helper()
	eventually(p.t, within, func() error {
		if !strings.Contains(p.text(), what) {
			return fmt.Errorf("the log does not say %q:\n%s", what, tail(p.text(), 2000))
		}
		return nil
	})
}

func tail(text string, n int) string {
	if len(text) > n {
		return text[len(text)-n:]
	}
	return text
}

func eventually(t *testing.T, within time.Duration, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("not within %s: %v", within, err)
}
