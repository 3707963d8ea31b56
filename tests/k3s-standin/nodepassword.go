package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/scrypt"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	passwordType   = core.SecretType("k3s.cattle.io/node-password")
	passwordSuffix = ".node-password.k3s"
	// orphanAge is how old a node password without a node must be before it is swept.
	orphanAge = 10 * time.Minute
)

var errWrongPassword = errors.New("hash does not match")

// verifyNodePassword compares with the Secret of that node's name, or makes it at first contact.
func (s *server) verifyNodePassword(ctx context.Context, node, password string) error {
	if node == "" || password == "" {
		return fmt.Errorf("node name or password is missing: %w", errWrongPassword)
	}
	secrets := s.api.CoreV1().Secrets(meta.NamespaceSystem)
	secret, err := secrets.Get(ctx, node+passwordSuffix, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		hash, err := hashPassword(password)
		if err != nil {
			return err
		}
		immutable := true
		secret = &core.Secret{
			ObjectMeta: meta.ObjectMeta{Name: node + passwordSuffix, Namespace: meta.NamespaceSystem},
			Immutable:  &immutable, Type: passwordType, Data: map[string][]byte{"hash": []byte(hash)},
		}
		s.own(ctx, secret, node)
		_, err = secrets.Create(ctx, secret, meta.CreateOptions{})
		if err == nil {
			s.verified.Store(proof(hash, password), true)
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		secret, err = secrets.Get(ctx, node+passwordSuffix, meta.GetOptions{})
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	stored := string(secret.Data["hash"])
	if _, ok := s.verified.Load(proof(stored, password)); ok {
		return nil
	}
	if err := checkPassword(stored, password); err != nil {
		return err
	}
	s.verified.Store(proof(stored, password), true)
	return nil
}

// proof stands for a password that fits a stored hash; a Secret made anew has another salt and so no proof.
func proof(stored, password string) [sha256.Size]byte {
	return sha256.Sum256([]byte(stored + "\x00" + password))
}

// hashPassword gives `$1:<salt>:<scrypt>`.
func hashPassword(password string) (string, error) {
	return hashWith(randomHex(8), password)
}

func hashWith(salt, password string) (string, error) {
	raw, err := hex.DecodeString(salt)
	if err != nil {
		return "", err
	}
	hash, err := scrypt.Key([]byte(password), raw, 1<<15, 8, 1, 64)
	return "$1:" + salt + ":" + base64.RawStdEncoding.EncodeToString(hash), err
}

func checkPassword(stored, password string) error {
	parts := strings.Split(stored, ":")
	if len(parts) != 3 || parts[0] != "$1" {
		return errors.New("the stored hash is not readable")
	}
	hash, err := hashWith(parts[1], password)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(hash), []byte(stored)) != 1 {
		return errWrongPassword
	}
	return nil
}

// own names the Node as the Secret's owner, so that deleting the Node deletes the Secret. It says if it changed that.
func (s *server) own(ctx context.Context, secret *core.Secret, name string) bool {
	node, err := s.api.CoreV1().Nodes().Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return false
	}
	for _, owner := range secret.OwnerReferences {
		if owner.UID == node.UID {
			return false
		}
	}
	secret.OwnerReferences = []meta.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	return true
}

// tendNodePasswords gives each Secret its owner and sweeps those whose node never came.
func (s *server) tendNodePasswords(ctx context.Context) error {
	secrets := s.api.CoreV1().Secrets(meta.NamespaceSystem)
	found, err := secrets.List(ctx, meta.ListOptions{FieldSelector: "type=" + string(passwordType)})
	if err != nil {
		return err
	}
	for i := range found.Items {
		secret := &found.Items[i]
		name := strings.TrimSuffix(secret.Name, passwordSuffix)
		if len(secret.OwnerReferences) == 0 && s.own(ctx, secret, name) {
			if _, err := secrets.Update(ctx, secret, meta.UpdateOptions{}); err != nil {
				logrus.Debugf("standin: failed to give %s its owner: %v", secret.Name, err)
			}
			continue
		}
		_, err := s.api.CoreV1().Nodes().Get(ctx, name, meta.GetOptions{})
		if apierrors.IsNotFound(err) && time.Since(secret.CreationTimestamp.Time) > orphanAge {
			if err := secrets.Delete(ctx, secret.Name, meta.DeleteOptions{}); err != nil {
				return err
			}
			logrus.Infof("Deleted orphaned node-password secret %s", secret.Name)
		}
	}
	return nil
}
