package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
)

// criticalArgs are the settings that all servers of a cluster must share.
type criticalArgs struct {
	ClusterCIDR           string `cli:"cluster-cidr"`
	ServiceCIDR           string `cli:"service-cidr"`
	ClusterDNS            string `cli:"cluster-dns"`
	ClusterDomain         string `cli:"cluster-domain"`
	FlannelBackend        string `cli:"flannel-backend"`
	EgressSelectorMode    string `cli:"egress-selector-mode"`
	EncryptSecrets        bool   `cli:"secrets-encryption"`
	EncryptProvider       string `cli:"secrets-encryption-provider"`
	DisableServiceLB      bool   `cli:"disable-service-lb"`
	DisableHelmController bool   `cli:"disable-helm-controller"`
	DisableCCM            bool   `cli:"disable-cloud-controller"`
	DisableNPC            bool   `cli:"disable-network-policy"`
	EmbeddedRegistry      bool   `cli:"embedded-registry"`
	SupervisorMetrics     bool   `cli:"supervisor-metrics"`
}

func (s *server) criticalArgs() (criticalArgs, error) {
	dns, err := serviceIP(s.serviceCIDR(), 10)
	return criticalArgs{
		ClusterCIDR: s.clusterCIDR(), ServiceCIDR: s.serviceCIDR(), ClusterDNS: s.str("cluster-dns", dns),
		ClusterDomain: s.domain(), FlannelBackend: s.str("flannel-backend", "vxlan"),
		EgressSelectorMode: s.str("egress-selector-mode", "agent"), EncryptSecrets: s.is("secrets-encryption"),
		EncryptProvider:  s.str("secrets-encryption-provider", "aescbc"),
		DisableServiceLB: slices.Contains(s.all("disable"), "servicelb"), DisableHelmController: s.is("disable-helm-controller"),
		DisableCCM: s.is("disable-cloud-controller"), DisableNPC: s.is("disable-network-policy"),
		EmbeddedRegistry: s.is("embedded-registry"), SupervisorMetrics: s.is("supervisor-metrics"),
	}, err
}

// mismatch gives the names of the settings that differ.
func (a criticalArgs) mismatch(b criticalArgs) (names []string) {
	left, right := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range left.NumField() {
		if left.Field(i).Interface() != right.Field(i).Interface() {
			names = append(names, left.Type().Field(i).Tag.Get("cli"))
		}
	}
	return names
}

// joins says whether this start is to become a member of another server's cluster.
func (s *server) joins() bool {
	_, err := os.Stat(filepath.Join(s.etcdDir(), "member"))
	return s.str("server", "") != "" && errors.Is(err, fs.ErrNotExist)
}

// fetchCluster proves to a server of the cluster that we have its token, compares what must be the same, and fetches
// the cluster's keys.
func (s *server) fetchCluster(ctx context.Context) error {
	text, err := readToken(s.settings, "token")
	if err != nil {
		return err
	}
	parsed, err := parseToken(text)
	if err != nil {
		return err
	}
	parsed.user = "server"
	client, err := dial(ctx, strings.TrimSuffix(s.str("server", ""), "/"), parsed, "")
	if err != nil {
		return fmt.Errorf("failed to validate connection to cluster: %w", err)
	}
	var theirs clusterConfig
	if err := client.fetch(ctx, "/v1-k3s/config", &theirs); err != nil {
		return err
	}
	ours, err := s.criticalArgs()
	if err != nil {
		return err
	}
	if names := ours.mismatch(theirs.criticalArgs); len(names) > 0 {
		for _, name := range names {
			logrus.Errorf("critical configuration mismatched: %s", name)
		}
		return errors.New("critical configuration value mismatch between servers")
	}
	files := map[string][]byte{}
	if err := client.fetch(ctx, "/v1-k3s/server-bootstrap", &files); err != nil {
		return err
	}
	for name, content := range files {
		if err := writeFile(filepath.Join(s.dataDir, name), 0o600, content); err != nil {
			return err
		}
	}
	return nil
}

func (c *supervisorClient) fetch(ctx context.Context, path string, into any) error {
	text, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// serveBootstrap gives the cluster's keys to whoever has the server token.
func (s *server) serveBootstrap(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if user != "server" || subtle.ConstantTimeCompare([]byte(password), []byte(s.serverPass)) != 1 {
		refuse(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	files, err := s.clusterFiles()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	json.NewEncoder(w).Encode(files)
}

// etcdOf is where the etcd of the server at a URL listens.
func etcdOf(server string) (string, error) {
	at, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	port := 6443
	if at.Port() != "" {
		if _, err := fmt.Sscan(at.Port(), &port); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("https://%s:%d", at.Hostname(), portsFor(port).etcd), nil
}
