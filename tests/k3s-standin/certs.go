package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"
)

const (
	leafLife = 365 * 24 * time.Hour
	caLife   = 10 * 365 * 24 * time.Hour
)

// authority signs certificates. Keys are ECDSA P-256: RSA would cost seconds under emulation.
type authority struct {
	cert *x509.Certificate
	pem  []byte
	key  *ecdsa.PrivateKey
}

// openAuthority reads a CA from disk, or makes it when it is not there yet.
func openAuthority(path, name string) (*authority, error) {
	certPEM, err := os.ReadFile(path + ".crt")
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeAuthority(path, name); err != nil {
			return nil, fmt.Errorf("failed to make %s: %w", path, err)
		}
		certPEM, err = os.ReadFile(path + ".crt")
	}
	if err != nil {
		return nil, err
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("failed to read %s.crt: %w", path, err)
	}
	key, err := readKey(path + ".key")
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, pem: certPEM, key: key}, nil
}

func makeAuthority(path, name string) error {
	key, err := ensureKey(path + ".key")
	if err != nil {
		return err
	}
	// Valid from now and not from a little earlier: a wrong clock must show here as it does with the real one.
	now := time.Now().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: fmt.Sprintf("k3s-%s@%d", name, now.Unix())},
		NotBefore:             now,
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	return writeFile(path+".crt", 0o644, encodeCert(der))
}

// subject is whom a certificate names.
type subject struct {
	name   string
	groups []string
	hosts  []string // names and addresses; a certificate with any may be used to serve
}

// sign makes a certificate for a public key.
func (a *authority) sign(public any, who subject) ([]byte, error) {
	now := time.Now()
	notBefore := now.Truncate(time.Second)
	if notBefore.Before(a.cert.NotBefore) {
		notBefore = a.cert.NotBefore
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: who.name, Organization: who.groups},
		NotBefore:    notBefore,
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(who.hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range who.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, err
	}
	return encodeCert(der), nil
}

// issue writes a fresh certificate next to its key, with the CA behind it for servers.
func (a *authority) issue(path string, who subject) error {
	key, err := ensureKey(path + ".key")
	if err != nil {
		return err
	}
	certPEM, err := a.sign(key.Public(), who)
	if err != nil {
		return fmt.Errorf("failed to sign %s.crt: %w", path, err)
	}
	return writeFile(path+".crt", 0o644, append(certPEM, a.pem...))
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// ensureKey reads a key, or makes it.
func ensureKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return key, writeFile(path, 0o600, block)
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no key in %s", path)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func parseCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		panic(err) // the kernel's random source never fails
	}
	return n.Add(n, big.NewInt(1))
}
