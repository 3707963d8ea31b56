package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/component-base/version"
)

func gitVersion() string { return version.Get().GitVersion }

// controlPlane starts etcd, then the apiserver, then what talks to the apiserver.
func (s *server) controlPlane(ctx context.Context) error {
	if err := s.startEtcd(ctx); err != nil {
		return err
	}
	dial := func() error {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.ports.etcd), time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := poll(ctx, 200*time.Millisecond, "etcd", dial); err != nil {
		return err
	}
	if err := s.awaitVoter(ctx); err != nil {
		return err
	}
	if err := s.keepBootstrap(ctx); err != nil {
		return err
	}
	if err := s.startAPIServer(); err != nil {
		return err
	}
	if err := s.awaitAPIServer(ctx); err != nil {
		return err
	}
	if err := s.dropOwnLeases(ctx); err != nil {
		return err
	}
	if err := s.startControllers(); err != nil {
		return err
	}
	if err := s.afterReset(ctx); err != nil {
		return err
	}
	close(s.ready)
	return s.housekeeping(ctx)
}

// etcdName is this member's name: made once, kept beside the data.
func etcdName(dir, node string) (string, error) {
	path := filepath.Join(dir, "name")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		name := node + "-" + randomHex(4)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		return name, writeFile(path, 0o600, []byte(name))
	}
	return strings.TrimSpace(string(text)), err
}

func (s *server) etcdDir() string { return filepath.Join(s.dataDir, "db/etcd") }

func (s *server) startEtcd(ctx context.Context) error {
	name, err := etcdName(s.etcdDir(), s.node)
	if err != nil {
		return err
	}
	peer := s.public(s.ports.etcdPeer)
	initial, state := name+"="+peer, "new"
	if s.joinsNow {
		if initial, err = s.addMember(ctx, name); err != nil {
			return err
		}
		state = "existing"
	}
	pair := filepath.Join(s.pki.tls, "etcd/server-client")
	ca := filepath.Join(s.pki.tls, "etcd/server-ca.crt")
	args := arguments{}
	args.set("name", name)
	args.set("data-dir", s.etcdDir())
	args.set("listen-client-urls", s.urls(s.ports.etcd))
	args.set("advertise-client-urls", s.public(s.ports.etcd))
	args.set("listen-peer-urls", s.urls(s.ports.etcdPeer))
	args.set("initial-advertise-peer-urls", peer)
	args.set("initial-cluster", initial)
	args.set("initial-cluster-state", state)
	args.set("client-cert-auth", "true")
	args.set("peer-client-cert-auth", "true")
	args.set("trusted-ca-file", ca)
	args.set("peer-trusted-ca-file", ca)
	for _, prefix := range []string{"", "peer-"} {
		args.set(prefix+"cert-file", pair+".crt")
		args.set(prefix+"key-file", pair+".key")
	}
	args.set("log-level", "warn")
	host := "127.0.0.1"
	if s.is("etcd-expose-metrics") {
		host = "0.0.0.0"
	}
	args.set("listen-metrics-urls", fmt.Sprintf("http://%s:%d", host, s.ports.etcdMetrics))
	args.merge(s.settings["etcd-arg"])
	return s.run.component("etcd", args.list()...)
}

func (s *server) startAPIServer() error {
	tls := func(name string) string { return filepath.Join(s.pki.tls, name) }
	issuer := "https://kubernetes.default.svc." + s.domain()
	args := arguments{
		"advertise-address":                  {s.ip.String()},
		"allow-privileged":                   {"true"},
		"anonymous-auth":                     {"false"},
		"api-audiences":                      {issuer + ",k3s"},
		"authorization-mode":                 {"Node,RBAC"},
		"bind-address":                       {"127.0.0.1"},
		"cert-dir":                           {tls("temporary-certs")},
		"client-ca-file":                     {tls("client-ca.crt")},
		"enable-admission-plugins":           {"NodeRestriction"},
		"enable-aggregator-routing":          {"true"},
		"endpoint-reconciler-type":           {"none"}, // agents reach the supervisor's port, not the apiserver's
		"etcd-servers":                       {fmt.Sprintf("https://127.0.0.1:%d", s.ports.etcd)},
		"etcd-cafile":                        {tls("etcd/server-ca.crt")},
		"etcd-certfile":                      {tls("etcd/client.crt")},
		"etcd-keyfile":                       {tls("etcd/client.key")},
		"kubelet-certificate-authority":      {tls("server-ca.crt")},
		"kubelet-client-certificate":         {tls("client-kube-apiserver.crt")},
		"kubelet-client-key":                 {tls("client-kube-apiserver.key")},
		"kubelet-preferred-address-types":    {"InternalIP,ExternalIP,Hostname"},
		"profiling":                          {"false"},
		"proxy-client-cert-file":             {tls("client-auth-proxy.crt")},
		"proxy-client-key-file":              {tls("client-auth-proxy.key")},
		"requestheader-allowed-names":        {"system:auth-proxy"},
		"requestheader-client-ca-file":       {tls("request-header-ca.crt")},
		"requestheader-extra-headers-prefix": {"X-Remote-Extra-"},
		"requestheader-group-headers":        {"X-Remote-Group"},
		"requestheader-username-headers":     {"X-Remote-User"},
		"secure-port":                        {fmt.Sprint(s.ports.apiserver)},
		"service-account-issuer":             {issuer},
		"service-account-key-file":           {tls("service.key")},
		"service-account-signing-key-file":   {tls("service.key")},
		"service-cluster-ip-range":           {s.serviceCIDR()},
		"service-node-port-range":            {s.str("service-node-port-range", "30000-32767")},
		"tls-cert-file":                      {tls("serving-kube-apiserver.crt")},
		"tls-private-key-file":               {tls("serving-kube-apiserver.key")},
	}
	if s.is("secrets-encryption") {
		path, err := s.pki.encryptionConfig(s.str("secrets-encryption-provider", "aescbc"))
		if err != nil {
			return err
		}
		args.set("encryption-provider-config", path)
	}
	args.merge(s.settings["kube-apiserver-arg"])
	if len(args["authentication-config"]) > 0 {
		delete(args, "anonymous-auth") // the file says who may be anonymous; the two exclude each other
	}
	return s.run.component("kube-apiserver", args.list()...)
}

func (s *server) awaitAPIServer(ctx context.Context) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.pki.tls, "client-admin.crt"), filepath.Join(s.pki.tls, "client-admin.key"))
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.pki.server.pool(), Certificates: []tls.Certificate{pair}}}}
	defer client.CloseIdleConnections()
	started := time.Now()
	err = poll(ctx, 300*time.Millisecond, "the apiserver", func() error {
		response, err := client.Get(s.apiserver + "/readyz")
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %s", response.Status)
		}
		return nil
	})
	if err == nil {
		logrus.Infof("standin: apiserver is ready after %.1f s", time.Since(started).Seconds())
	}
	return err
}

func (s *server) startControllers() error {
	cred := func(name string) arguments {
		path := filepath.Join(s.pki.cred, name+".kubeconfig")
		// Long leases: an emulated machine may stand still for longer than the usual 10 s, and a lost lease ends us.
		return arguments{"kubeconfig": {path}, "authentication-kubeconfig": {path}, "authorization-kubeconfig": {path},
			"bind-address": {"127.0.0.1"}, "profiling": {"false"}, "leader-elect-lease-duration": {"60s"},
			"leader-elect-renew-deadline": {"40s"}, "leader-elect-retry-period": {"5s"}}
	}
	args := cred("controller")
	args.set("allocate-node-cidrs", "true")
	args.set("cert-dir", filepath.Join(s.pki.tls, "kube-controller-manager"))
	args.set("cluster-cidr", s.clusterCIDR())
	args.set("cluster-signing-cert-file", filepath.Join(s.pki.tls, "client-ca.crt"))
	args.set("cluster-signing-key-file", filepath.Join(s.pki.tls, "client-ca.key"))
	args.set("configure-cloud-routes", "false")
	args.set("root-ca-file", filepath.Join(s.pki.tls, "server-ca.crt"))
	args.set("secure-port", fmt.Sprint(s.ports.controllers))
	args.set("service-account-private-key-file", filepath.Join(s.pki.tls, "service.key"))
	args.set("service-cluster-ip-range", s.serviceCIDR())
	args.set("use-service-account-credentials", "true")
	args.merge(s.settings["kube-controller-manager-arg"])
	if err := s.run.component("kube-controller-manager", args.list()...); err != nil {
		return err
	}
	if s.is("disable-scheduler") {
		return nil
	}
	args = cred("scheduler")
	args.set("cert-dir", filepath.Join(s.pki.tls, "kube-scheduler"))
	args.set("secure-port", fmt.Sprint(s.ports.scheduler))
	args.merge(s.settings["kube-scheduler-arg"])
	return s.run.component("kube-scheduler", args.list()...)
}
