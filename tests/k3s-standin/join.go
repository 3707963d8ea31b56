package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// validateEvery and joinEvery are the real one's pauses; both loops go on for ever.
	validateEvery = 2 * time.Second
	joinEvery     = 5 * time.Second
	// soon is the pause while the server is only not ready yet: that passes by itself.
	soon = 500 * time.Millisecond
)

var errNotReady = errors.New("server is not ready")

// join proves to the server who we are and fetches what makes us a node.
func (a *agent) join(ctx context.Context) error {
	var client *supervisorClient
	for client == nil {
		var err error
		if client, err = a.dialSupervisor(ctx); err != nil {
			logrus.Errorf("Failed to validate connection to cluster at %s: %v", a.url, err)
			if err := sleep(ctx, validateEvery); err != nil {
				return err
			}
		}
	}
	for {
		err := a.fetchIdentity(ctx, client)
		if err == nil {
			return nil
		}
		pause := joinEvery
		if errors.Is(err, errNotReady) {
			pause = soon
			logrus.Debugf("Waiting to retrieve agent configuration; %v", err)
		} else {
			logrus.Infof("Waiting to retrieve agent configuration; server is not ready: %v", err)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, pause time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pause):
		return nil
	}
}

// supervisorClient speaks to the server's public port with the token's password.
type supervisorClient struct {
	url   string
	token token
	http  *http.Client
}

// dialSupervisor connects with the token. A node that was here before also shows its certificate: its token may have
// run out since.
func (a *agent) dialSupervisor(ctx context.Context) (*supervisorClient, error) {
	parsed, err := parseToken(a.token)
	if err != nil {
		return nil, err
	}
	return dial(ctx, a.url, parsed, filepath.Join(a.dir, "client-kubelet"))
}

// dial fetches the CA, compares it with the hash in the token, and tries the password.
func dial(ctx context.Context, url string, parsed token, known string) (*supervisorClient, error) {
	insecure := &supervisorClient{url: url, http: httpClient(&tls.Config{InsecureSkipVerify: true})}
	ca, err := insecure.do(ctx, http.MethodGet, "/cacerts", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("failed to get CA certs: %w", err)
	}
	if parsed.caHash != "" && parsed.caHash != caHash(ca) {
		return nil, fmt.Errorf("token CA hash does not match the Cluster CA certificate hash: %s != %s",
			parsed.caHash, caHash(ca))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("the server's CA is not a certificate")
	}
	config := &tls.Config{RootCAs: pool}
	if pair, err := tls.LoadX509KeyPair(known+".crt", known+".key"); err == nil {
		config.Certificates = []tls.Certificate{pair}
	}
	client := &supervisorClient{url: url, token: parsed, http: httpClient(config)}
	if _, err := client.do(ctx, http.MethodGet, "/v1-k3s/readyz", nil, nil); err != nil {
		return nil, err
	}
	return client, nil
}

func httpClient(config *tls.Config) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, Proxy: nil}}
}

func (c *supervisorClient) do(ctx context.Context, method, path string, headers map[string]string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.token.id != "" {
		request.Header.Set("Authorization", "Bearer "+c.token.id+"."+c.token.password)
	} else if c.token.password != "" {
		request.SetBasicAuth(c.token.user, c.token.password)
	}
	for key, value := range headers {
		request.Header.Set(key, value)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("Node password rejected, duplicate hostname or contents of '%s' may not match server"+
			" node-passwd entry, try enabling a unique node name with the --with-node-id flag", passwordFile())
	case response.StatusCode == http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%w: %s%s: %s", errNotReady, c.url, path, response.Status)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s%s: %s", c.url, path, response.Status)
	}
	return answer, nil
}

// fetchIdentity gets the cluster's CAs and settings, and this node's certificates.
func (a *agent) fetchIdentity(ctx context.Context, client *supervisorClient) error {
	for _, ca := range []string{"client-ca.crt", "server-ca.crt"} {
		text, err := client.do(ctx, http.MethodGet, "/v1-k3s/"+ca, nil, nil)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(a.dir, ca), 0o600, text); err != nil {
			return err
		}
	}
	text, err := client.do(ctx, http.MethodGet, "/v1-k3s/config", nil, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &a.config); err != nil {
		return fmt.Errorf("failed to read the cluster's configuration: %w", err)
	}
	password, err := ensureNodePassword(passwordFile())
	if err != nil {
		return err
	}
	headers := map[string]string{"k3s-Node-Name": a.node, "k3s-Node-Password": password, "k3s-Node-IP": a.ip.String()}
	for _, name := range []string{"serving-kubelet", "client-kubelet", "client-kube-proxy"} {
		if err := a.fetchCertificate(ctx, client, name, headers); err != nil {
			return err
		}
	}
	for config, cert := range map[string]string{"kubelet": "client-kubelet", "kubeproxy": "client-kube-proxy"} {
		err := writeKubeconfig(filepath.Join(a.dir, config+".kubeconfig"), 0o600, a.url,
			filepath.Join(a.dir, "server-ca.crt"), filepath.Join(a.dir, cert))
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchCertificate sends a request for one of our keys, which never leave this node.
func (a *agent) fetchCertificate(ctx context.Context, client *supervisorClient, name string, headers map[string]string) error {
	path := filepath.Join(a.dir, name)
	key, err := ensureKey(path + ".key")
	if err != nil {
		return err
	}
	request, err := certificateRequest(key)
	if err != nil {
		return err
	}
	signed, err := client.do(ctx, http.MethodPost, "/v1-k3s/"+name+".crt", headers, request)
	if err != nil {
		return err
	}
	return writeFile(path+".crt", 0o600, signed)
}

func certificateRequest(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ensureNodePassword reads this node's own password, or makes it at the first start.
func ensureNodePassword(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	password := randomHex(16)
	return password, writeFile(path, 0o600, []byte(password+"\n"))
}
