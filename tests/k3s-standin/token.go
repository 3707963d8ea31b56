package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// tokenFileWait is how long the real one waits for a token file to appear.
const tokenFileWait = 4 * time.Minute

var bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// token is what a node shows to join: `K10<hash of the server CA>::<user>:<password>`, the password
// alone, or a bootstrap token `<id>.<secret>` with or without the hash.
type token struct {
	id       string // of a bootstrap token, which has no user
	caHash   string // empty in the short form: the CA is then trusted as it comes
	user     string
	password string
}

func parseToken(text string) (token, error) {
	text = strings.TrimSpace(text)
	rest, full := strings.CutPrefix(text, "K10")
	if match := bootstrapToken.FindStringSubmatch(text); match != nil {
		return token{id: match[1], password: match[2]}, nil
	}
	if !full || !strings.Contains(rest, "::") {
		if text == "" {
			return token{}, errors.New("token is empty")
		}
		return token{user: "node", password: text}, nil
	}
	hash, credentials, _ := strings.Cut(rest, "::")
	if raw, err := hex.DecodeString(hash); err != nil || len(raw) != sha256.Size {
		return token{}, errors.New("invalid token CA hash length")
	}
	if match := bootstrapToken.FindStringSubmatch(credentials); match != nil {
		return token{caHash: hash, id: match[1], password: match[2]}, nil
	}
	user, password, ok := strings.Cut(credentials, ":")
	if !ok || user == "" || password == "" {
		return token{}, errors.New("invalid token format")
	}
	return token{caHash: hash, user: user, password: password}, nil
}

// fullToken is the form that pins the CA.
func fullToken(caPEM []byte, user, password string) string {
	return "K10" + caHash(caPEM) + "::" + user + ":" + password
}

func caHash(caPEM []byte) string {
	sum := sha256.Sum256(caPEM)
	return hex.EncodeToString(sum[:])
}

// readToken takes the value itself or waits for its file; "" means that none was named.
func readToken(s settings, key string) (string, error) {
	if value := s.str(key, ""); value != "" {
		return strings.TrimSpace(value), nil
	}
	file := s.str(key+"-file", "")
	if file == "" {
		return "", nil
	}
	for deadline := time.Now().Add(tokenFileWait); ; time.Sleep(500 * time.Millisecond) {
		content, err := os.ReadFile(file)
		if err == nil {
			return strings.TrimSpace(string(content)), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			return "", fmt.Errorf("failed to read %s: %w", key+"-file", err)
		}
		logrus.Debugf("Waiting for %s to be available", file)
	}
}

func randomHex(n int) string {
	raw := make([]byte, n)
	rand.Read(raw)
	return hex.EncodeToString(raw)
}

// serverPasswords gives the server's and the agents' password: from the settings, from an earlier start, or new.
func serverPasswords(s settings, dataDir string) (server, agent string, err error) {
	server, err = passwordOf(s, "token", filepath.Join(dataDir, "server/token"))
	if err != nil {
		return "", "", err
	}
	agent, err = passwordOf(s, "agent-token", "")
	if err != nil {
		return "", "", err
	}
	if server == "" {
		server = randomHex(16)
	}
	return server, agent, nil
}

func passwordOf(s settings, key, earlier string) (string, error) {
	text, err := readToken(s, key)
	if err != nil {
		return "", err
	}
	if text == "" && earlier != "" {
		content, err := os.ReadFile(earlier)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		text = strings.TrimSpace(string(content))
	}
	if text == "" {
		return "", nil
	}
	parsed, err := parseToken(text)
	return parsed.password, err
}

// writeTokens leaves the full tokens where an operator looks for them.
func writeTokens(dataDir string, caPEM []byte, server, agent string) error {
	folder := filepath.Join(dataDir, "server")
	path := filepath.Join(folder, "token")
	if err := writeFile(path, 0o600, []byte(fullToken(caPEM, "server", server)+"\n")); err != nil {
		return err
	}
	agentPath := filepath.Join(folder, "agent-token")
	if agent != "" {
		if err := replaceLink(path, filepath.Join(folder, "node-token")); err != nil {
			return err
		}
		os.Remove(agentPath) // it may be a link to the server's token, which must not be written through
		return writeFile(agentPath, 0o600, []byte(fullToken(caPEM, "node", agent)+"\n"))
	}
	if err := replaceLink(path, agentPath); err != nil {
		return err
	}
	return replaceLink(path, filepath.Join(folder, "node-token"))
}

func replaceLink(target, link string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	os.Remove(link)
	return os.Symlink(target, link)
}
