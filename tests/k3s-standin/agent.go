package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

// agent is the node part: containerd, the kubelet, kube-proxy and the pods' network.
type agent struct {
	settings
	dir     string // <data-dir>/agent
	dataDir string
	bin     string // the unpacked helper programs
	url     string
	token   string
	node    string
	ip      net.IP
	config  clusterConfig
	run     *children
	ready   chan struct{} // closed when the kubelet runs
}

// runAgent runs a worker until a signal or until a part of it fails.
func runAgent(argv []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := loadSettings("agent", argv)
	if err != nil {
		return err
	}
	if s.is("debug") {
		logrus.SetLevel(logrus.DebugLevel)
	}
	text, err := readToken(s, "token")
	if err != nil {
		return err
	}
	if text == "" {
		return errors.New("--token is required")
	}
	url := strings.TrimSuffix(s.str("server", ""), "/")
	if url == "" {
		return errors.New("--server is required")
	}
	a, err := newAgent(s, url, text)
	if err != nil {
		return err
	}
	logrus.Infof("Starting k3s agent %s (standin)", gitVersion())
	notify("STATUS=standin: starting")
	a.run = newChildren(ctx)
	defer a.run.stop()
	go func() {
		if err := a.start(a.run.ctx); err != nil {
			a.run.cancel(err)
			return
		}
	}()
	select {
	case <-a.ready:
		logrus.Info("k3s agent is up and running (standin)")
		notify("READY=1\nSTATUS=standin: kubelet is running")
		<-a.run.ctx.Done()
	case <-a.run.ctx.Done():
	}
	if ctx.Err() != nil {
		logrus.Info("standin: stopping on a signal")
		return nil
	}
	return context.Cause(a.run.ctx)
}

func newAgent(s settings, url, tokenText string) (*agent, error) {
	a := &agent{settings: s, url: url, token: tokenText, ready: make(chan struct{})}
	a.dataDir = s.str("data-dir", defaultDataDir())
	a.dir = filepath.Join(a.dataDir, "agent")
	var err error
	if a.node, err = nodeName(s); err != nil {
		return nil, err
	}
	a.ip, err = nodeIP(s)
	return a, err
}

// start brings the node up. containerd and the images need nothing from the server, so they do not wait for it.
func (a *agent) start(ctx context.Context) error {
	var err error
	if a.bin, err = extract(a.dataDir); err != nil {
		return err
	}
	path := a.bin + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	a.prepareKernel()
	runtime := make(chan error, 1)
	go func() { runtime <- a.startRuntime(ctx) }()
	if err := a.join(ctx); err != nil {
		return err
	}
	if err := <-runtime; err != nil {
		return err
	}
	notify("STATUS=standin: starting the kubelet")
	if err := a.startKubelet(); err != nil {
		return err
	}
	if err := poll(ctx, 300*time.Millisecond, "the kubelet", a.kubeletHealthy); err != nil {
		return err
	}
	close(a.ready)
	if err := a.network(ctx); err != nil {
		return err
	}
	return a.startProxy()
}

// startRuntime starts containerd and fills it with the images on disk.
func (a *agent) startRuntime(ctx context.Context) error {
	if err := a.startContainerd(); err != nil {
		return err
	}
	dial := func() error {
		conn, err := net.Dial("unix", containerdSocket())
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := poll(ctx, 200*time.Millisecond, "containerd", dial); err != nil {
		return err
	}
	return a.importImages(ctx)
}

// prepareKernel loads what pods need, as K3s does; what is missing shows soon enough.
func (a *agent) prepareKernel() {
	if shared() {
		return
	}
	for _, module := range []string{"overlay", "br_netfilter", "nf_conntrack", "iptable_nat", "iptable_filter"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			logrus.Warnf("Failed to load kernel module %s with modprobe: %s", module, strings.TrimSpace(string(out)))
		}
	}
	for key, value := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/forwarding": "1", "net/bridge/bridge-nf-call-iptables": "1",
	} {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
			logrus.Warnf("Failed to set sysctl: %v", err)
		}
	}
}

func (a *agent) kubeletHealthy() error {
	port := "10248"
	for _, arg := range a.settings["kubelet-arg"] {
		if value, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "healthz-port="); ok {
			port = value
		}
	}
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://127.0.0.1:" + port + "/healthz")
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("healthz: %s", response.Status)
	}
	return nil
}
