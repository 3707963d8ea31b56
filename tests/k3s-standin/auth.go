package main

import (
	"context"
	"crypto/subtle"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	bootstrapSecretPrefix = "bootstrap-token-"
	bootstrapTokenTTL     = 24 * time.Hour
)

// authenticated asks for the agents' password, the server's, a bootstrap token, or the certificate of a known node.
func (s *server) authenticated(next http.Handler) http.Handler {
	agent := s.agentPass
	if agent == "" {
		agent = s.serverPass
	}
	expected := map[string]string{"node": agent, "server": s.serverPass}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		want, known := expected[user]
		bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case known && subtle.ConstantTimeCompare([]byte(password), []byte(want)) == 1:
		case s.validBootstrapToken(r.Context(), bearer):
		case s.knownNode(r):
		default:
			refuse(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knownNode accepts a kubelet's certificate, for itself and while its Node exists.
func (s *server) knownNode(r *http.Request) bool {
	cert := peer(r)
	if cert == nil {
		return false
	}
	name, ok := strings.CutPrefix(cert.Subject.CommonName, "system:node:")
	if asked := strings.ToLower(r.Header.Get("k3s-Node-Name")); !ok || (asked != "" && asked != name) {
		return false
	}
	_, err := s.api.CoreV1().Nodes().Get(r.Context(), name, meta.GetOptions{})
	return err == nil
}

// validBootstrapToken looks a token up among the Secrets that `k3s token create` makes.
func (s *server) validBootstrapToken(ctx context.Context, text string) bool {
	match := bootstrapToken.FindStringSubmatch(text)
	if match == nil {
		return false
	}
	secret, err := s.api.CoreV1().Secrets(meta.NamespaceSystem).Get(ctx, bootstrapSecretPrefix+match[1], meta.GetOptions{})
	if err != nil || secret.Type != core.SecretTypeBootstrapToken {
		return false
	}
	if subtle.ConstantTimeCompare(secret.Data["token-secret"], []byte(match[2])) != 1 {
		return false
	}
	until := string(secret.Data["expiration"])
	if until == "" {
		return true
	}
	end, err := time.Parse(time.RFC3339, until)
	return err == nil && time.Now().Before(end)
}

// runToken is `k3s token create|list|delete`.
func runToken(argv []string) error {
	if len(argv) == 0 {
		return fmt.Errorf("standin: usage: k3s token create|list|delete")
	}
	flags := flag.NewFlagSet("token "+argv[0], flag.ContinueOnError)
	dataDir := flags.String("data-dir", "", "the server's data folder")
	ttl := flags.Duration("ttl", bootstrapTokenTTL, "how long the token is valid; 0 is for ever")
	description := flags.String("description", "", "what the token is for")
	path := flags.String("kubeconfig", adminKubeconfig(), "the administrator's kubeconfig")
	if err := flags.Parse(argv[1:]); err != nil {
		return err
	}
	folder, _, err := clientDataDir(nil)
	if err != nil {
		return err
	}
	if *dataDir != "" {
		folder = *dataDir
	}
	config, err := clientcmd.BuildConfigFromFlags("", *path)
	if err != nil {
		return err
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	secrets := api.CoreV1().Secrets(meta.NamespaceSystem)
	switch argv[0] {
	case "create":
		return createToken(ctx, secrets, folder, *description, *ttl)
	case "list":
		return listTokens(ctx, secrets)
	case "delete":
		for _, id := range flags.Args() {
			if err := secrets.Delete(ctx, bootstrapSecretPrefix+id, meta.DeleteOptions{}); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("standin: unknown token command %q", argv[0])
}

func createToken(ctx context.Context, secrets typed.SecretInterface, folder, description string, ttl time.Duration) error {
	ca, err := os.ReadFile(filepath.Join(folder, "server/tls/server-ca.crt"))
	if err != nil {
		return err
	}
	secret, text := newBootstrapToken(description, ttl)
	if _, err := secrets.Create(ctx, secret, meta.CreateOptions{}); err != nil {
		return err
	}
	fmt.Println("K10" + caHash(ca) + "::" + text)
	return nil
}

func listTokens(ctx context.Context, secrets typed.SecretInterface) error {
	found, err := secrets.List(ctx, meta.ListOptions{FieldSelector: "type=" + string(core.SecretTypeBootstrapToken)})
	if err != nil {
		return err
	}
	for _, one := range found.Items {
		fmt.Printf("%s\t%s\t%s\n", one.Data["token-id"], one.Data["expiration"], one.Data["description"])
	}
	return nil
}

func newBootstrapToken(description string, ttl time.Duration) (*core.Secret, string) {
	id, password := randomHex(3), randomHex(8)
	data := map[string]string{"token-id": id, "token-secret": password, "description": description,
		"usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
		"auth-extra-groups": "system:bootstrappers:k3s:default-node-token"}
	if ttl > 0 {
		data["expiration"] = time.Now().Add(ttl).UTC().Format(time.RFC3339)
	}
	return &core.Secret{ObjectMeta: meta.ObjectMeta{Name: bootstrapSecretPrefix + id, Namespace: meta.NamespaceSystem},
		Type: core.SecretTypeBootstrapToken, StringData: data}, id + "." + password
}
