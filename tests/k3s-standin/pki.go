package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// pki is everything cryptographic a server owns; it lives in server/tls and server/cred.
type pki struct {
	tls, cred string
	server    *authority // serving certificates
	client    *authority // client certificates
	front     *authority // the supervisor, when it speaks for a user
	etcd      *authority
}

// bootstrapFiles are the files that make the cluster itself: they go into etcd, encrypted with the token.
var bootstrapFiles = []string{
	"tls/server-ca.crt", "tls/server-ca.key", "tls/client-ca.crt", "tls/client-ca.key",
	"tls/request-header-ca.crt", "tls/request-header-ca.key", "tls/service.key",
	"tls/etcd/server-ca.crt", "tls/etcd/server-ca.key", "cred/encryption-config.json",
}

func openPKI(server string) (*pki, error) {
	p := &pki{tls: filepath.Join(server, "tls"), cred: filepath.Join(server, "cred")}
	for path, target := range map[string]**authority{
		"server-ca": &p.server, "client-ca": &p.client, "request-header-ca": &p.front, "etcd/server-ca": &p.etcd,
	} {
		ca, err := openAuthority(filepath.Join(p.tls, path), filepath.Base(path))
		if err != nil {
			return nil, err
		}
		*target = ca
	}
	_, err := ensureKey(filepath.Join(p.tls, "service.key"))
	return p, err
}

// issueAll renews the certificates of the server's own components and their kubeconfigs.
func (p *pki) issueAll(hosts []string, ip, apiserver string) error {
	local := []string{"localhost", "127.0.0.1", "::1", ip}
	for path, leaf := range map[string]struct {
		by  *authority
		who subject
	}{
		"serving-kube-apiserver": {p.server, subject{name: "kube-apiserver", hosts: hosts}},
		"client-kube-apiserver":  {p.client, subject{name: "system:kube-apiserver", groups: []string{"system:masters"}}},
		"client-auth-proxy":      {p.front, subject{name: "system:auth-proxy"}},
		"etcd/server-client":     {p.etcd, subject{name: "etcd-server", hosts: local}},
		"etcd/client":            {p.etcd, subject{name: "etcd-client"}},
	} {
		if err := leaf.by.issue(filepath.Join(p.tls, path), leaf.who); err != nil {
			return err
		}
	}
	for path, who := range map[string]subject{
		"admin":      {name: "system:admin", groups: []string{"system:masters"}},
		"controller": {name: "system:kube-controller-manager"},
		"scheduler":  {name: "system:kube-scheduler"},
	} {
		cert := filepath.Join(p.tls, "client-"+path)
		if err := p.client.issue(cert, who); err != nil {
			return err
		}
		err := writeKubeconfig(filepath.Join(p.cred, path+".kubeconfig"), 0o600, apiserver,
			filepath.Join(p.tls, "server-ca.crt"), cert)
		if err != nil {
			return err
		}
	}
	return nil
}

// loopback is the supervisor's own way to the apiserver.
func (p *pki) loopback(apiserver string) *rest.Config {
	cert := filepath.Join(p.tls, "client-admin")
	return &rest.Config{Host: apiserver, QPS: 50, Burst: 100, TLSClientConfig: rest.TLSClientConfig{
		CAFile: filepath.Join(p.tls, "server-ca.crt"), CertFile: cert + ".crt", KeyFile: cert + ".key"}}
}

// encryptionConfig writes the key that encrypts Secrets in etcd, once, and gives the path.
func (p *pki) encryptionConfig(provider string) (string, error) {
	path := filepath.Join(p.cred, "encryption-config.json")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	if provider != "secretbox" && provider != "aescbc" {
		return "", fmt.Errorf("unsupported secrets-encryption-provider %q", provider)
	}
	type object = map[string]any
	key := base64.StdEncoding.EncodeToString([]byte(randomHex(16))) // 32 bytes, as both providers want
	keys := object{"keys": []object{{"name": provider + "key", "secret": key}}}
	content, err := json.Marshal(object{
		"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
		"resources": []object{{
			"resources": []string{"secrets"},
			"providers": []object{{provider: keys}, {"identity": object{}}},
		}},
	})
	if err != nil {
		return "", err
	}
	return path, writeFile(path, 0o600, content)
}

// writeKubeconfig names certificate files, for components.
func writeKubeconfig(path string, mode os.FileMode, url, caFile, cert string) error {
	config := kubeconfig(url)
	config.Clusters[0].Cluster.CertificateAuthority = caFile
	config.AuthInfos[0].AuthInfo.ClientCertificate = cert + ".crt"
	config.AuthInfos[0].AuthInfo.ClientKey = cert + ".key"
	return saveKubeconfig(path, mode, config)
}

// writeAdminKubeconfig holds the certificates themselves, so that it can be copied away.
func (p *pki) writeAdminKubeconfig(path string, mode os.FileMode, url string) error {
	config := kubeconfig(url)
	config.Clusters[0].Cluster.CertificateAuthorityData = p.server.pem
	var err error
	user := &config.AuthInfos[0].AuthInfo
	if user.ClientCertificateData, err = os.ReadFile(filepath.Join(p.tls, "client-admin.crt")); err != nil {
		return err
	}
	if user.ClientKeyData, err = os.ReadFile(filepath.Join(p.tls, "client-admin.key")); err != nil {
		return err
	}
	return saveKubeconfig(path, mode, config)
}

func kubeconfig(url string) *clientcmd.Config {
	return &clientcmd.Config{
		APIVersion: "v1", Kind: "Config", CurrentContext: "default",
		Clusters:  []clientcmd.NamedCluster{{Name: "default", Cluster: clientcmd.Cluster{Server: url}}},
		AuthInfos: []clientcmd.NamedAuthInfo{{Name: "default"}},
		Contexts: []clientcmd.NamedContext{{Name: "default",
			Context: clientcmd.Context{Cluster: "default", AuthInfo: "default"}}},
	}
}

func saveKubeconfig(path string, mode os.FileMode, config *clientcmd.Config) error {
	content, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	return writeFile(path, mode, content)
}
