package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
)

// snapshotFile is one snapshot, as `etcd-snapshot ls` shows it.
type snapshotFile struct {
	Name     string    `json:"name"`
	Location string    `json:"location"`
	NodeName string    `json:"nodeName"`
	Size     int64     `json:"size"`
	Created  time.Time `json:"createdAt"`
	Status   string    `json:"status"`
}

// snapshotRequest is what the command line asks of the running server.
type snapshotRequest struct {
	Operation string // save, list, delete or prune
	Names     []string
	Dir       string
	Retention int
}

func (s *server) snapshotDir() string {
	return s.str("etcd-snapshot-dir", filepath.Join(s.dataDir, "db/snapshots"))
}

// saveSnapshot writes `<name>-<node>-<seconds>`: first as .part, then renamed; etcd puts a SHA-256 at the end.
func (s *server) saveSnapshot(ctx context.Context, name, dir string) (snapshotFile, error) {
	if dir == filepath.Join(s.dataDir, "db/snapshots") { // a folder of the user's own must exist
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return snapshotFile{}, err
		}
	}
	if _, err := os.Stat(dir); err != nil {
		return snapshotFile{}, fmt.Errorf("failed to use the snapshot folder: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.pki.tls, "etcd/client.crt"), filepath.Join(s.pki.tls, "etcd/client.key"))
	if err != nil {
		return snapshotFile{}, err
	}
	config := s.etcdConfig(&tls.Config{RootCAs: s.pki.etcd.pool(), Certificates: []tls.Certificate{pair}})
	file := fmt.Sprintf("%s-%s-%d", name, s.node, time.Now().Unix())
	path := filepath.Join(dir, file)
	logrus.Infof("Saving etcd snapshot to %s", path)
	if _, err := snapshot.SaveWithVersion(ctx, zap.NewNop(), config, path); err != nil {
		return snapshotFile{}, fmt.Errorf("failed to save the snapshot: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return snapshotFile{}, err
	}
	return describe(path, s.node, info), nil
}

func describe(path, node string, info os.FileInfo) snapshotFile {
	return snapshotFile{Name: filepath.Base(path), Location: "file://" + path, NodeName: node, Size: info.Size(),
		Created: info.ModTime().UTC().Truncate(time.Second), Status: "successful"}
}

// listSnapshots finds every file below the folder: like the real one it takes each for a snapshot of this node.
func (s *server) listSnapshots(dir string) ([]snapshotFile, error) {
	found := []snapshotFile{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if os.IsNotExist(err) && path == dir {
			return nil
		}
		if err == nil && !info.IsDir() && !strings.HasSuffix(path, ".part") {
			found = append(found, describe(path, s.node, info))
		}
		return err
	})
	return found, err
}

// pruneSnapshots keeps the newest of those whose name begins with the prefix. That is all it compares, as in K3s: a
// folder that several nodes share loses files of the others.
func (s *server) pruneSnapshots(dir, prefix string, keep int) ([]string, error) {
	all, err := s.listSnapshots(dir)
	if err != nil || keep < 1 {
		return nil, err
	}
	var matching []snapshotFile
	for _, one := range all {
		if strings.HasPrefix(one.Name, prefix) {
			matching = append(matching, one)
		}
	}
	sort.Slice(matching, func(i, j int) bool { return madeAt(matching[i].Name) > madeAt(matching[j].Name) })
	var gone []string
	for i := keep; i < len(matching); i++ {
		if err := os.Remove(strings.TrimPrefix(matching[i].Location, "file://")); err != nil {
			return gone, err
		}
		logrus.Infof("Removed snapshot %s", matching[i].Name)
		gone = append(gone, matching[i].Name)
	}
	return gone, nil
}

func madeAt(name string) int64 {
	seconds, _ := strconv.ParseInt(name[strings.LastIndex(name, "-")+1:], 10, 64)
	return seconds
}

// scheduleSnapshots saves by the clock and prunes afterwards.
func (s *server) scheduleSnapshots(ctx context.Context) {
	if s.is("etcd-disable-snapshots") {
		return
	}
	schedule, err := cron.ParseStandard(s.str("etcd-snapshot-schedule-cron", "0 */12 * * *"))
	if err != nil {
		s.run.cancel(fmt.Errorf("invalid etcd-snapshot-schedule-cron: %w", err))
		return
	}
	keep, err := strconv.Atoi(s.str("etcd-snapshot-retention", "5"))
	if err != nil {
		s.run.cancel(fmt.Errorf("invalid etcd-snapshot-retention: %w", err))
		return
	}
	name := s.str("etcd-snapshot-name", "etcd-snapshot")
	for sleep(ctx, time.Until(schedule.Next(time.Now()))) == nil {
		_, err := s.saveSnapshot(ctx, name, s.snapshotDir())
		if err == nil {
			_, err = s.pruneSnapshots(s.snapshotDir(), name, keep)
		}
		if err != nil && ctx.Err() == nil {
			logrus.Errorf("Failed to take etcd snapshot: %v", err)
		}
	}
}

func (s *server) snapshotRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /db/snapshot", func(w http.ResponseWriter, r *http.Request) {
		var request snapshotRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		answer, err := s.serveSnapshot(r.Context(), request)
		if err != nil {
			refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
		json.NewEncoder(w).Encode(answer)
	})
	return mux
}

func (s *server) serveSnapshot(ctx context.Context, r snapshotRequest) (files []snapshotFile, err error) {
	if r.Dir == "" {
		r.Dir = s.snapshotDir()
	}
	files = []snapshotFile{}
	name := ""
	if len(r.Names) > 0 {
		name = r.Names[0]
	}
	switch r.Operation {
	case "save":
		saved, err := s.saveSnapshot(ctx, name, r.Dir)
		return append(files, saved), err
	case "list":
		return s.listSnapshots(r.Dir)
	case "prune":
		gone, err := s.pruneSnapshots(r.Dir, name, r.Retention)
		for _, one := range gone {
			files = append(files, snapshotFile{Name: one})
		}
		return files, err
	case "delete":
		for _, one := range r.Names {
			if err := os.Remove(filepath.Join(r.Dir, filepath.Base(one))); err != nil {
				return files, err
			}
			files = append(files, snapshotFile{Name: one})
		}
		return files, nil
	}
	return nil, fmt.Errorf("unknown operation %q", r.Operation)
}
