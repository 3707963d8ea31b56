package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const bootstrapPrefix = "/bootstrap/"

// errOtherToken ends a start: who has another token must not open this cluster's keys.
var errOtherToken = errors.New("bootstrap data already found and encrypted with different token")

// bootstrapKey is where the cluster's keys stand for one password.
func bootstrapKey(password string) string {
	sum := sha256.Sum256([]byte(password))
	return bootstrapPrefix + hex.EncodeToString(sum[:])[:12]
}

// keepBootstrap puts the cluster's CAs and keys into etcd, so that a snapshot and the token are the whole cluster.
func (s *server) keepBootstrap(ctx context.Context) error {
	client, err := s.etcdClient("")
	if err != nil {
		return err
	}
	defer client.Close()
	stored, err := readBootstrap(ctx, client, s.serverPass)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("starting kubernetes: preparing server: %w", err)
	}
	files, err := s.clusterFiles()
	if err != nil {
		return err
	}
	const ca = "tls/server-ca.crt"
	if stored != nil && !bytes.Equal(stored[ca], files[ca]) {
		return fmt.Errorf("standin: %s on disk is not the one in the datastore", ca)
	}
	if len(stored) == len(files) {
		return nil
	}
	text, err := json.Marshal(files)
	if err != nil {
		return err
	}
	sealed, err := seal(s.serverPass, text)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = client.Put(ctx, bootstrapKey(s.serverPass), sealed)
	return err
}

// clusterFiles are the cluster's CAs and keys on this disk.
func (s *server) clusterFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range bootstrapFiles {
		content, err := os.ReadFile(filepath.Join(s.dataDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files[name] = content
	}
	return files, nil
}

// readBootstrap gives the files; fs.ErrNotExist means that nobody has put any yet.
func readBootstrap(ctx context.Context, client *clientv3.Client, password string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	answer, err := client.Get(ctx, bootstrapPrefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("failed to read bootstrap data: %w", err)
	}
	if len(answer.Kvs) == 0 {
		return nil, fs.ErrNotExist
	}
	for _, pair := range answer.Kvs {
		if string(pair.Key) != bootstrapKey(password) {
			continue
		}
		text, err := open(password, string(pair.Value))
		if err != nil {
			return nil, err
		}
		files := map[string][]byte{}
		return files, json.Unmarshal(text, &files)
	}
	return nil, errOtherToken
}

// etcdClient speaks to this server's etcd, or to the one at a URL.
func (s *server) etcdClient(at string) (*clientv3.Client, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.pki.tls, "etcd/client.crt"), filepath.Join(s.pki.tls, "etcd/client.key"))
	if err != nil {
		return nil, err
	}
	config := s.etcdConfig(&tls.Config{RootCAs: s.pki.etcd.pool(), Certificates: []tls.Certificate{pair}})
	if at != "" {
		config.Endpoints = []string{at}
	}
	return clientv3.New(config)
}

func (s *server) etcdConfig(config *tls.Config) clientv3.Config {
	scheme := "https"
	if config == nil {
		scheme = "http"
	}
	return clientv3.Config{Endpoints: []string{fmt.Sprintf("%s://127.0.0.1:%d", scheme, s.ports.etcd)}, TLS: config,
		DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
}

// seal encrypts with a password: `<salt>:<base64 of nonce and text>`.
func seal(password string, text []byte) (string, error) {
	salt := randomHex(8)
	box, err := boxFor(password, salt)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, box.NonceSize())
	rand.Read(nonce)
	return salt + ":" + base64.StdEncoding.EncodeToString(box.Seal(nonce, nonce, text, nil)), nil
}

func open(password, sealed string) ([]byte, error) {
	salt, body, _ := strings.Cut(sealed, ":")
	box, err := boxFor(password, salt)
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		return nil, err
	}
	if len(raw) < box.NonceSize() {
		return nil, errors.New("bootstrap data is too short")
	}
	return box.Open(nil, raw[:box.NonceSize()], raw[box.NonceSize():], nil)
}

func boxFor(password, salt string) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha1.New, password, []byte(salt), 4096, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
