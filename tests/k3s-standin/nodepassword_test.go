package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestNodePasswordHash(t *testing.T) {
	hash, err := hashPassword("pw")
	if err != nil || !strings.HasPrefix(hash, "$1:") {
		t.Fatalf("%q, %v", hash, err)
	}
	if err := checkPassword(hash, "pw"); err != nil {
		t.Error(err)
	}
	if err := checkPassword(hash, "other"); !errors.Is(err, errWrongPassword) {
		t.Errorf("got %v", err)
	}
	if err := checkPassword("nonsense", "pw"); err == nil || errors.Is(err, errWrongPassword) {
		t.Errorf("got %v", err)
	}
}

func TestNodePasswordLife(t *testing.T) {
	ctx := context.Background()
	s := &server{api: fake.NewClientset()}
	secrets := s.api.CoreV1().Secrets(meta.NamespaceSystem)
	if err := s.verifyNodePassword(ctx, "w1", "pw"); err != nil {
		t.Fatal("first contact:", err)
	}
	if err := s.verifyNodePassword(ctx, "w1", "pw"); err != nil {
		t.Error("same password:", err)
	}
	if err := s.verifyNodePassword(ctx, "w1", "other"); !errors.Is(err, errWrongPassword) {
		t.Error("other password:", err)
	}
	secret, err := secrets.Get(ctx, "w1.node-password.k3s", meta.GetOptions{})
	if err != nil || secret.Immutable == nil || !*secret.Immutable || secret.Type != passwordType {
		t.Fatalf("secret is %+v, %v", secret, err)
	}
	node := &core.Node{ObjectMeta: meta.ObjectMeta{Name: "w1", UID: "u1"}}
	if _, err := s.api.CoreV1().Nodes().Create(ctx, node, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.tendNodePasswords(ctx); err != nil {
		t.Fatal(err)
	}
	secret, err = secrets.Get(ctx, "w1.node-password.k3s", meta.GetOptions{})
	if err != nil || len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0].UID != "u1" {
		t.Errorf("owner is %+v, %v", secret.OwnerReferences, err)
	}
}

func TestOrphanedNodePasswordIsSwept(t *testing.T) {
	ctx := context.Background()
	old := func(name string, age time.Duration) *core.Secret {
		return &core.Secret{Type: passwordType, ObjectMeta: meta.ObjectMeta{Name: name + passwordSuffix,
			Namespace: meta.NamespaceSystem, CreationTimestamp: meta.NewTime(time.Now().Add(-age))}}
	}
	s := &server{api: fake.NewClientset(old("gone", orphanAge+time.Minute), old("young", time.Minute))}
	if err := s.tendNodePasswords(ctx); err != nil {
		t.Fatal(err)
	}
	secrets := s.api.CoreV1().Secrets(meta.NamespaceSystem)
	if _, err := secrets.Get(ctx, "gone"+passwordSuffix, meta.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the orphan is still there: %v", err)
	}
	if _, err := secrets.Get(ctx, "young"+passwordSuffix, meta.GetOptions{}); err != nil {
		t.Errorf("a node that may still come lost its password: %v", err)
	}
}
