package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/kubernetes"
)

// server is one `k3s server`: etcd, the control plane and the port that agents and users talk to.
type server struct {
	settings
	dataDir    string // <data-dir>/server
	node       string
	ip         net.IP
	port       int
	ports      ports
	apiserver  string
	serverPass string
	agentPass  string
	pki        *pki
	api        kubernetes.Interface
	run        *children
	joinsNow   bool          // this start becomes a member of another server's cluster
	verified   sync.Map      // node passwords that were right, so that a join costs one scrypt and not four
	ready      chan struct{} // closed when the apiserver answers
}

// ports are the loopback ports behind the public one. With a public port of its own a server also takes its own
// inner ports, so that several fit on one host.
type ports struct{ apiserver, etcd, etcdPeer, etcdMetrics, controllers, scheduler int }

func portsFor(public int) ports {
	if public == 6443 {
		return ports{6444, 2379, 2380, 2381, 10257, 10259}
	}
	return ports{public + 1, public + 2, public + 3, public + 4, public + 5, public + 6}
}

// runServer runs until a signal or until a part of it fails.
func runServer(argv []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := loadSettings("server", argv)
	if err != nil {
		return err
	}
	if s.is("debug") {
		logrus.SetLevel(logrus.DebugLevel)
	}
	if s.is("cluster-reset") {
		return clusterReset(ctx, s)
	}
	if s.str("datastore-endpoint", "") != "" {
		return errors.New("standin: datastore-endpoint is not in the stand-in")
	}
	srv, err := newServer(s)
	if err != nil {
		return err
	}
	return srv.serve(ctx)
}

func newServer(s settings) (*server, error) {
	srv := &server{settings: s, ready: make(chan struct{})}
	srv.dataDir = filepath.Join(s.str("data-dir", defaultDataDir()), "server")
	var err error
	if srv.node, err = nodeName(s); err != nil {
		return nil, err
	}
	if srv.ip, err = nodeIP(s); err != nil {
		return nil, err
	}
	if srv.port, err = strconv.Atoi(s.str("https-listen-port", "6443")); err != nil {
		return nil, fmt.Errorf("invalid https-listen-port: %w", err)
	}
	srv.ports = portsFor(srv.port)
	srv.apiserver = fmt.Sprintf("https://127.0.0.1:%d", srv.ports.apiserver)
	srv.serverPass, srv.agentPass, err = serverPasswords(s, s.str("data-dir", defaultDataDir()))
	return srv, err
}

func (s *server) serve(ctx context.Context) error {
	logrus.Infof("Starting k3s %s (standin)", gitVersion())
	notify("STATUS=standin: starting")
	if s.joinsNow = s.joins(); s.joinsNow {
		if err := s.fetchCluster(ctx); err != nil {
			return fmt.Errorf("starting kubernetes: preparing server: %w", err)
		}
	}
	if err := s.prepare(); err != nil {
		return err
	}
	s.run = newChildren(ctx)
	defer s.run.stop()
	var agent *agent
	if !s.is("disable-agent") {
		local, err := newAgent(s.settings, s.localURL(), s.localToken())
		if err != nil {
			return err
		}
		local.run = s.run
		agent = local
	}
	steps := []func(context.Context) error{s.controlPlane, s.supervise}
	if agent != nil {
		steps = append(steps, agent.start)
	}
	for _, step := range steps {
		go func() {
			if err := step(s.run.ctx); err != nil {
				s.run.cancel(err)
			}
		}()
	}
	go s.announce(s.run.ctx, agent)
	<-s.run.ctx.Done()
	if ctx.Err() != nil {
		logrus.Info("standin: stopping on a signal")
		return nil
	}
	return context.Cause(s.run.ctx)
}

// prepare writes everything that stands on disk before the first component starts.
func (s *server) prepare() error {
	if err := os.MkdirAll(s.dataDir, 0o700); err != nil {
		return err
	}
	var err error
	if s.pki, err = openPKI(s.dataDir); err != nil {
		return err
	}
	if s.is("secrets-encryption") { // before etcd starts: the key belongs to the bootstrap data
		if _, err := s.pki.encryptionConfig(s.str("secrets-encryption-provider", "aescbc")); err != nil {
			return err
		}
	}
	hosts, err := s.hosts()
	if err != nil {
		return err
	}
	if err := s.pki.issueAll(hosts, s.ip.String(), s.apiserver); err != nil {
		return err
	}
	base := s.str("data-dir", defaultDataDir())
	if err := writeTokens(base, s.pki.server.pem, s.serverPass, s.agentPass); err != nil {
		return err
	}
	mode, err := strconv.ParseUint(s.str("write-kubeconfig-mode", "0600"), 8, 32)
	if err != nil {
		return fmt.Errorf("invalid write-kubeconfig-mode: %w", err)
	}
	path := s.str("write-kubeconfig", adminKubeconfig())
	if err := s.pki.writeAdminKubeconfig(path, os.FileMode(mode), s.localURL()); err != nil {
		return err
	}
	logrus.Infof("Wrote kubeconfig %s", path)
	if s.api, err = kubernetes.NewForConfig(s.pki.loopback(s.apiserver)); err != nil {
		return err
	}
	return nil
}

// hosts are the names and addresses in the serving certificate.
func (s *server) hosts() ([]string, error) {
	api, err := serviceIP(s.serviceCIDR(), 1)
	if err != nil {
		return nil, err
	}
	hosts := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + s.domain(), "localhost", s.node, "127.0.0.1", "::1", s.ip.String(), api}
	return append(hosts, s.all("tls-san")...), nil
}

func (s *server) localURL() string { return fmt.Sprintf("https://127.0.0.1:%d", s.port) }

func (s *server) localToken() string {
	password := s.agentPass
	if password == "" {
		password = s.serverPass
	}
	return fullToken(s.pki.server.pem, "node", password)
}

func (s *server) clusterCIDR() string { return s.str("cluster-cidr", "10.42.0.0/16") }
func (s *server) serviceCIDR() string { return s.str("service-cidr", "10.43.0.0/16") }
func (s *server) domain() string      { return s.str("cluster-domain", "cluster.local") }

// announce reports to systemd once the apiserver answers and the node's own kubelet runs.
func (s *server) announce(ctx context.Context, agent *agent) {
	select {
	case <-ctx.Done():
		return
	case <-s.ready:
	}
	notify("STATUS=standin: apiserver is ready")
	if agent != nil {
		select {
		case <-ctx.Done():
			return
		case <-agent.ready:
		}
		go s.markNode(ctx)
	}
	logrus.Info("k3s is up and running (standin)")
	notify("READY=1\nSTATUS=standin: up and running")
}

// poll tries until it works; the reason of the last failure comes out if the time is over first.
func poll(ctx context.Context, every time.Duration, what string, try func() error) error {
	var last error
	for {
		if last = try(); last == nil {
			return nil
		}
		logrus.Debugf("standin: waiting for %s: %v", what, last)
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up on %s: %w", what, last)
		case <-time.After(every):
		}
	}
}
