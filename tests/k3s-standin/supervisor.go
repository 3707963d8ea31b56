package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/sirupsen/logrus"
)

// supervise serves the one public port: what agents need to join, and everything else for the apiserver behind it.
func (s *server) supervise(ctx context.Context) error {
	pair := filepath.Join(s.pki.tls, "serving-kube-apiserver")
	cert, err := tls.LoadX509KeyPair(pair+".crt", pair+".key")
	if err != nil {
		return err
	}
	front, err := s.frontProxy()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ping", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "pong") })
	mux.HandleFunc("/cacerts", func(w http.ResponseWriter, _ *http.Request) { w.Write(s.pki.server.pem) })
	mux.Handle("/static/", http.StripPrefix("/static", http.FileServer(http.Dir(filepath.Join(s.dataDir, "static")))))
	mux.Handle("/v1-k3s/", s.authenticated(s.agentRoutes()))
	mux.Handle("/db/", s.adminOnly(s.snapshotRoutes()))
	mux.Handle("/", front)
	web := &http.Server{
		Handler:  mux,
		ErrorLog: stdlog.New(io.Discard, "", 0), // a scan or a broken handshake is no news
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: s.pki.client.pool()},
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(s.str("bind-address", ""), fmt.Sprint(s.port)))
	if err != nil {
		return fmt.Errorf("failed to open the supervisor's port: %w", err)
	}
	context.AfterFunc(ctx, func() { web.Close() })
	logrus.Infof("standin: supervisor listens on %s", listener.Addr())
	if err := web.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// frontProxy passes requests on. A user with a client certificate is named in headers that the apiserver trusts from
// us alone; a bearer token goes through untouched; anything else is refused by the apiserver itself.
func (s *server) frontProxy() (http.Handler, error) {
	pair := filepath.Join(s.pki.tls, "client-auth-proxy")
	ours, err := tls.LoadX509KeyPair(pair+".crt", pair+".key")
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(s.apiserver)
	if err != nil {
		return nil, err
	}
	make := func(certs []tls.Certificate, http2 bool) http.RoundTripper {
		return &http.Transport{ForceAttemptHTTP2: http2, MaxIdleConnsPerHost: 50,
			TLSClientConfig: &tls.Config{RootCAs: s.pki.server.pool(), Certificates: certs}}
	}
	named := []tls.Certificate{ours}
	// exec, attach and port-forward switch protocols, which only HTTP/1.1 can.
	plain, plainUp, front, frontUp := make(nil, true), make(nil, false), make(named, true), make(named, false)
	choose := transport(func(r *http.Request) (*http.Response, error) {
		upgrade := r.Header.Get("Upgrade") != ""
		switch withCert := r.Header.Get("X-Remote-User") != ""; {
		case withCert && upgrade:
			return frontUp.RoundTrip(r)
		case withCert:
			return front.RoundTrip(r)
		case upgrade:
			return plainUp.RoundTrip(r)
		}
		return plain.RoundTrip(r)
	})
	return &httputil.ReverseProxy{
		Transport:     choose,
		FlushInterval: -1,
		ErrorLog:      stdlog.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			for key := range r.Out.Header {
				if strings.HasPrefix(key, "X-Remote-") {
					delete(r.Out.Header, key)
				}
			}
			if user := peer(r.In); user != nil {
				r.Out.Header.Set("X-Remote-User", user.Subject.CommonName)
				r.Out.Header["X-Remote-Group"] = user.Subject.Organization
				r.Out.Header.Del("Authorization")
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			refuse(w, http.StatusServiceUnavailable, "apiserver is not ready: "+err.Error())
		},
	}, nil
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// peer is the verified client certificate, if there is one.
func peer(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	return r.TLS.VerifiedChains[0][0]
}

// adminOnly lets the cluster's administrators in, by certificate.
func (s *server) adminOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user := peer(r); user != nil {
			for _, group := range user.Subject.Organization {
				if group == "system:masters" {
					next.ServeHTTP(w, r)
					return
				}
			}
		}
		refuse(w, http.StatusUnauthorized, "Unauthorized")
	})
}

// clusterConfig is what a node must know about the cluster.
type clusterConfig struct {
	criticalArgs
	DisableKubeProxy bool
}

func (s *server) agentRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1-k3s/client-ca.crt", func(w http.ResponseWriter, _ *http.Request) { w.Write(s.pki.client.pem) })
	mux.HandleFunc("/v1-k3s/server-ca.crt", func(w http.ResponseWriter, _ *http.Request) { w.Write(s.pki.server.pem) })
	mux.HandleFunc("/v1-k3s/readyz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	mux.HandleFunc("/v1-k3s/config", func(w http.ResponseWriter, _ *http.Request) {
		critical, err := s.criticalArgs()
		if err != nil {
			refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
		json.NewEncoder(w).Encode(clusterConfig{critical, s.is("disable-kube-proxy")})
	})
	mux.HandleFunc("/v1-k3s/server-bootstrap", s.serveBootstrap)
	mux.HandleFunc("POST /v1-k3s/client-kubelet.crt", s.nodeCertificate(s.pki.client, func(node, _ string) subject {
		return subject{name: "system:node:" + node, groups: []string{"system:nodes"}}
	}))
	mux.HandleFunc("POST /v1-k3s/client-kube-proxy.crt", s.nodeCertificate(s.pki.client, func(_, _ string) subject {
		return subject{name: "system:kube-proxy"}
	}))
	mux.HandleFunc("POST /v1-k3s/serving-kubelet.crt", s.nodeCertificate(s.pki.server, func(node, ip string) subject {
		return subject{name: node, hosts: append([]string{node, "localhost", "127.0.0.1"}, strings.Split(ip, ",")...)}
	}))
	return mux
}

// nodeCertificate signs a node's request once its node password is verified.
func (s *server) nodeCertificate(by *authority, who func(node, ip string) subject) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		node := strings.ToLower(r.Header.Get("k3s-Node-Name"))
		select {
		case <-s.ready:
		default:
			refuse(w, http.StatusServiceUnavailable, "apiserver is not ready")
			return
		}
		if err := s.verifyNodePassword(r.Context(), node, r.Header.Get("k3s-Node-Password")); err != nil {
			status := http.StatusServiceUnavailable
			if errors.Is(err, errWrongPassword) {
				status = http.StatusForbidden
			}
			logrus.Errorf("unable to verify password for node %s: %v", node, err)
			refuse(w, status, fmt.Sprintf("unable to verify password for node %s: %v", node, err))
			return
		}
		public, err := requestedKey(r.Body)
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		signed, err := by.sign(public, who(node, r.Header.Get("k3s-Node-IP")))
		if err != nil {
			refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Write(append(signed, by.pem...))
	}
}

// requestedKey reads a certificate request and gives the key it proves to hold.
func requestedKey(body io.Reader) (any, error) {
	text, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no certificate request in the body")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return request.PublicKey, request.CheckSignature()
}

// refuse answers as the apiserver does, so that every client can show the reason.
func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{},
		"status": "Failure", "message": message, "reason": strings.ReplaceAll(http.StatusText(code), " ", ""), "code": code})
}
