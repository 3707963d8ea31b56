package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// memberFinalizer holds a server's Node until its member has left etcd.
	memberFinalizer = "wrangler.cattle.io/managed-etcd-controller"
	memberName      = "etcd.k3s.cattle.io/node-name"
	memberWait      = 10 * time.Second
)

var errDuplicate = errors.New("duplicate node name found, please use a unique name for this node")

// urls are where etcd listens: for this host, and for the other servers when there can be any.
func (s *server) urls(port int) string {
	local := fmt.Sprintf("https://127.0.0.1:%d", port)
	if s.ip.IsLoopback() {
		return local
	}
	return local + "," + s.public(port)
}

func (s *server) public(port int) string {
	if s.ip.IsLoopback() {
		return fmt.Sprintf("https://127.0.0.1:%d", port)
	}
	return fmt.Sprintf("https://%s:%d", s.ip, port)
}

// nodeOf is the node that a member's name belongs to.
func nodeOf(member string) string {
	if at := strings.LastIndex(member, "-"); at >= 0 {
		return member[:at]
	}
	return member
}

// addMember makes this server a learner of the cluster it joins and gives the members for etcd's first start.
func (s *server) addMember(ctx context.Context, name string) (string, error) {
	at, err := etcdOf(s.str("server", ""))
	if err != nil {
		return "", err
	}
	client, err := s.etcdClient(at)
	if err != nil {
		return "", err
	}
	defer client.Close()
	var members []*etcdserverpb.Member
	err = poll(ctx, time.Second, "a place in etcd", func() error {
		ctx, cancel := context.WithTimeout(ctx, memberWait)
		defer cancel()
		list, err := client.MemberList(ctx)
		if err != nil {
			return err
		}
		members = list.Members
		for _, one := range members {
			if slices.Contains(one.PeerURLs, s.public(s.ports.etcdPeer)) && (one.Name == "" || one.Name == name) {
				return nil // added by a start that was cut short
			}
			if nodeOf(one.Name) == s.node {
				return nil // told below
			}
		}
		added, err := client.MemberAddAsLearner(ctx, []string{s.public(s.ports.etcdPeer)})
		if err == nil {
			members = added.Members
		}
		return err // another learner is not through yet
	})
	if err != nil {
		return "", err
	}
	var initial []string
	for _, one := range members {
		if nodeOf(one.Name) == s.node && one.Name != name {
			return "", errDuplicate
		}
		for _, url := range one.PeerURLs {
			if url == s.public(s.ports.etcdPeer) {
				initial = append(initial, name+"="+url)
			} else if one.Name != "" {
				initial = append(initial, one.Name+"="+url)
			}
		}
	}
	return strings.Join(initial, ","), nil
}

// awaitVoter waits until the other servers have made this member a voter: before that etcd answers nobody.
func (s *server) awaitVoter(ctx context.Context) error {
	client, err := s.etcdClient("")
	if err != nil {
		return err
	}
	defer client.Close()
	return poll(ctx, time.Second, "a vote in etcd", func() error {
		ctx, cancel := context.WithTimeout(ctx, memberWait)
		defer cancel()
		status, err := client.Status(ctx, client.Endpoints()[0])
		if err == nil && status.IsLearner {
			err = errors.New("this member is a learner")
		}
		return err
	})
}

// tendMembers promotes learners that have caught up, and lets members go whose Node is deleted.
func (s *server) tendMembers(ctx context.Context) error {
	client, err := s.etcdClient("")
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, memberWait)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, one := range list.Members {
		if one.IsLearner && one.Name != "" {
			if _, err := client.MemberPromote(ctx, one.ID); err != nil {
				logrus.Debugf("standin: %s is no voter yet: %v", one.Name, err)
			}
		}
	}
	nodes, err := s.api.CoreV1().Nodes().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		if node.DeletionTimestamp == nil || !slices.Contains(node.Finalizers, memberFinalizer) {
			continue
		}
		if err := s.release(ctx, client, list.Members, node); err != nil {
			return err
		}
	}
	return s.publishAPI(ctx, list.Members)
}

// release takes a deleted Node's member out of etcd and then lets the Node go. A server does not remove itself: one
// of the others does.
func (s *server) release(ctx context.Context, client *clientv3.Client, members []*etcdserverpb.Member, node *core.Node) error {
	if node.Name == s.node && len(members) > 1 {
		return nil
	}
	for _, one := range members {
		if one.Name != "" && one.Name == node.Annotations[memberName] && len(members) > 1 {
			logrus.Infof("Removing name=%s id=%d from etcd", one.Name, one.ID)
			if _, err := client.MemberRemove(ctx, one.ID); err != nil {
				return err
			}
		}
	}
	left := slices.DeleteFunc(slices.Clone(node.Finalizers), func(one string) bool { return one == memberFinalizer })
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": left}})
	if err != nil {
		return err
	}
	_, err = s.api.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, meta.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil // another server was faster
	}
	return err
}

// voter is the state of this server's member, as its Node's condition EtcdIsVoter has it.
func (s *server) voter(ctx context.Context) (status, reason, message string) {
	client, err := s.etcdClient("")
	if err == nil {
		defer client.Close()
		ctx, cancel := context.WithTimeout(ctx, memberWait)
		defer cancel()
		var answer *clientv3.StatusResponse
		if answer, err = client.Status(ctx, client.Endpoints()[0]); err == nil && answer.IsLearner {
			return "False", "MemberIsLearner", "Node has not been promoted to voting member of the etcd cluster"
		}
	}
	if err != nil {
		return "False", "Unhealthy", err.Error()
	}
	return "True", "MemberNotLearner", "Node is a voting member of the etcd cluster"
}

// addresses are those of all servers, by their members' addresses.
func (s *server) addresses(members []*etcdserverpb.Member) []string {
	found := []string{s.ip.String()}
	for _, one := range members {
		for _, text := range one.PeerURLs {
			at, err := url.Parse(text)
			if err == nil && !strings.HasPrefix(at.Hostname(), "127.") && !one.IsLearner {
				found = append(found, at.Hostname())
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// dropOwnLeases lets a sole server's controllers start at once: whoever held their leases was its own last run.
func (s *server) dropOwnLeases(ctx context.Context) error {
	client, err := s.etcdClient("")
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, memberWait)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil || len(list.Members) > 1 {
		return err
	}
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		err := s.api.CoordinationV1().Leases(meta.NamespaceSystem).Delete(ctx, name, meta.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
