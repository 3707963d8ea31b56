package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"
)

// snapshotLimit is the real command's limit for one request.
const snapshotLimit = 2 * time.Minute

// runSnapshot is `k3s etcd-snapshot save|ls|delete|prune`: it asks the server that runs on this host.
func runSnapshot(argv []string) error {
	operation, names := "save", []string{}
	if len(argv) > 0 && !strings.HasPrefix(argv[0], "-") {
		operation, argv = argv[0], argv[1:]
	}
	for len(argv) > 0 && !strings.HasPrefix(argv[0], "-") {
		names, argv = append(names, argv[0]), argv[1:]
	}
	s, err := loadSettings("etcd-snapshot", argv)
	if err != nil {
		return err
	}
	request := snapshotRequest{Operation: operation, Names: names, Dir: s.str("dir", "")}
	switch operation {
	case "save":
		request.Names = []string{s.str("name", "on-demand")}
	case "ls", "list":
		request.Operation = "list"
	case "prune":
		request.Names = []string{s.str("name", s.str("etcd-snapshot-name", "etcd-snapshot"))}
		keep := s.str("snapshot-retention", s.str("etcd-snapshot-retention", "5"))
		if request.Retention, err = strconv.Atoi(keep); err != nil {
			return fmt.Errorf("invalid snapshot-retention: %w", err)
		}
	case "delete":
	default:
		return fmt.Errorf("standin: unknown etcd-snapshot command %q", operation)
	}
	files, err := askServer(s, request)
	if err != nil {
		return err
	}
	return report(operation, s.str("output", "table"), files)
}

func report(operation, format string, files []snapshotFile) error {
	switch operation {
	case "save":
		logrus.Infof("Snapshot %s saved.", files[0].Name)
	case "ls", "list":
		if format == "json" {
			return json.NewEncoder(os.Stdout).Encode(files)
		}
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
		fmt.Fprintln(table, "Name\tLocation\tSize\tCreated")
		for _, one := range files {
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", one.Name, one.Location, one.Size, one.Created.Format(time.RFC3339))
		}
		return table.Flush()
	default:
		for _, one := range files {
			logrus.Infof("Snapshot %s deleted.", one.Name)
		}
	}
	return nil
}

// askServer sends a request with the administrator's certificate from this host's disk.
func askServer(s settings, request snapshotRequest) ([]snapshotFile, error) {
	folder := filepath.Join(s.str("data-dir", defaultDataDir()), "server/tls")
	ca, err := os.ReadFile(filepath.Join(folder, "server-ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "client-admin.crt"), filepath.Join(folder, "client-admin.key"))
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), snapshotLimit)
	defer cancel()
	url := fmt.Sprintf("https://127.0.0.1:%s/db/snapshot", s.str("https-listen-port", "6443"))
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	client := httpClient(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}})
	client.Timeout = snapshotLimit
	response, err := client.Do(post)
	if err != nil {
		return nil, fmt.Errorf("see server log for details: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		var status struct{ Message string }
		json.Unmarshal(text, &status) // an unreadable answer leaves the message empty
		return nil, fmt.Errorf("see server log for details: %s: %s", response.Status, status.Message)
	}
	var files []snapshotFile
	return files, json.Unmarshal(text, &files)
}
