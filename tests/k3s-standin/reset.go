package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resetDone is the line that proves a reset: the exit status does not.
const resetDone = "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. " +
	"Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes"

func (s *server) resetFlag() string { return filepath.Join(s.dataDir, "db/reset-flag") }

// clusterReset is `k3s server --cluster-reset [--cluster-reset-restore-path=FILE]`. It ends with status 0 and the line
// above, starts no apiserver and no agent, and leaves a server that starts from the restored data.
func clusterReset(ctx context.Context, settings settings) error {
	if settings.str("server", "") != "" {
		return errors.New("cannot perform cluster-reset while server URL is set - remove server from configuration before resetting")
	}
	from := settings.str("cluster-reset-restore-path", "")
	tokenPath := filepath.Join(settings.str("data-dir", defaultDataDir()), "server/token")
	if from != "" && settings.str("token", "") == "" { // like the real one this does not look at token-file
		if _, err := os.Stat(tokenPath); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s does not exist, please pass --token to complete the restoration", tokenPath)
		}
	}
	s, err := newServer(settings)
	if err != nil {
		return err
	}
	if os.Getenv("K3S_STANDIN_RESET_FAILS") != "" { // a test wants to see that exit status 0 is not believed
		logrus.Error(`Shutdown request received: "standin: failing as asked"`)
		return nil
	}
	if _, err := os.Stat(s.resetFlag()); err == nil && from == "" {
		return fmt.Errorf("cluster-reset was successfully performed, please remove the cluster-reset flag and start k3s"+
			" normally, if you need to perform another cluster reset, you must first manually delete the %s file", s.resetFlag())
	}
	if from != "" {
		if err := s.restoreSnapshot(from); err != nil {
			return err
		}
	}
	// Before the keys are read, as in the real one: so this file proves nothing either.
	if err := writeFile(s.resetFlag(), 0o600, nil); err != nil {
		return err
	}
	if err := s.recoverKeys(ctx); err != nil {
		return err
	}
	logrus.Errorf("Shutdown request received: %q", resetDone)
	return nil
}

// restoreSnapshot makes a one-member database of a snapshot file; the old database is moved aside.
func (s *server) restoreSnapshot(from string) error {
	if _, err := os.Stat(from); err != nil {
		return fmt.Errorf("etcd: snapshot path does not exist: %s", from)
	}
	dir := s.etcdDir()
	if _, err := os.Stat(dir); err == nil {
		old := fmt.Sprintf("%s-old-%d", dir, time.Now().Unix())
		logrus.Infof("Pre-restore etcd database moved to %s", old)
		if err := os.Rename(dir, old); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	name := s.node + "-" + randomHex(4)
	peer := s.public(s.ports.etcdPeer)
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{SnapshotPath: from, Name: name, OutputDataDir: dir,
		OutputWALDir: filepath.Join(dir, "member/wal"), PeerURLs: []string{peer}, InitialCluster: name + "=" + peer,
		InitialClusterToken: "etcd-cluster"})
	if err != nil {
		return fmt.Errorf("failed to restore snapshot %s: %w", from, err)
	}
	return writeFile(filepath.Join(dir, "name"), 0o600, []byte(name))
}

// recoverKeys runs etcd alone, reads the cluster's keys out of it and puts them on disk.
func (s *server) recoverKeys(ctx context.Context) error {
	s.run = newChildren(ctx)
	defer s.run.stop()
	name, err := etcdName(s.etcdDir(), s.node)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", s.ports.etcd)
	// Without TLS, because its certificates are among the keys; for a moment and on loopback only.
	args := arguments{"name": {name}, "data-dir": {s.etcdDir()}, "listen-client-urls": {url},
		"advertise-client-urls": {url}, "listen-peer-urls": {fmt.Sprintf("http://127.0.0.1:%d", s.ports.etcdPeer)},
		"force-new-cluster": {"true"}, "log-level": {"error"}}
	if err := s.run.component("etcd", args.list()...); err != nil {
		return err
	}
	client, err := clientv3.New(s.etcdConfig(nil))
	if err != nil {
		return err
	}
	defer client.Close()
	files, err := readBootstrap(s.run.ctx, client, s.serverPass)
	if err != nil {
		if cause := context.Cause(s.run.ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("failed to reconcile with local datastore: %w", err)
	}
	for _, folder := range []string{"tls", "cred"} {
		path := filepath.Join(s.dataDir, folder)
		if _, err := os.Stat(path); err == nil {
			if err := os.Rename(path, fmt.Sprintf("%s-%d", path, time.Now().Unix())); err != nil {
				return err
			}
		}
	}
	for name, content := range files {
		if err := writeFile(filepath.Join(s.dataDir, name), 0o600, content); err != nil {
			return err
		}
	}
	base := filepath.Dir(s.dataDir)
	return writeTokens(base, files["tls/server-ca.crt"], s.serverPass, s.agentPass)
}

// afterReset is the first normal start after a reset: this node's own password is forgotten, for its disk is new.
func (s *server) afterReset(ctx context.Context) error {
	if _, err := os.Stat(s.resetFlag()); err != nil {
		return nil
	}
	err := s.api.CoreV1().Secrets(meta.NamespaceSystem).Delete(ctx, s.node+passwordSuffix, meta.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("failed to forget this node's password: %w", err)
	}
	return os.Remove(s.resetFlag())
}
