package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tendEvery is the pause between two rounds of housekeeping. A Node must own its password Secret soon after it joins:
// tests delete the Node and wait for the Secret to go.
const tendEvery = 5 * time.Second

// housekeeping is the small rest that a cluster needs and no component does.
func (s *server) housekeeping(ctx context.Context) error {
	if err := poll(ctx, time.Second, "the kubernetes endpoint", func() error { return s.tendMembers(ctx) }); err != nil {
		return err
	}
	go s.scheduleSnapshots(ctx)
	for {
		if err := s.tendNodePasswords(ctx); err != nil && ctx.Err() == nil {
			logrus.Warnf("standin: failed to look after node passwords: %v", err)
		}
		if err := s.tendMembers(ctx); err != nil && ctx.Err() == nil {
			logrus.Warnf("standin: failed to look after etcd's members: %v", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tendEvery):
		}
	}
}

// publishAPI makes the addresses of Service default/kubernetes the servers' public ports: the apiserver itself listens
// on loopback only, so its own way of doing that is off.
func (s *server) publishAPI(ctx context.Context, members []*etcdserverpb.Member) error {
	if s.ip.IsLoopback() {
		return nil // not a valid endpoint address
	}
	name, port, protocol, ready := "https", int32(s.port), core.ProtocolTCP, true
	labels := map[string]string{discovery.LabelServiceName: "kubernetes"}
	family := discovery.AddressTypeIPv4
	if s.ip.To4() == nil {
		family = discovery.AddressTypeIPv6
	}
	slice := &discovery.EndpointSlice{
		ObjectMeta:  meta.ObjectMeta{Name: "kubernetes", Namespace: "default", Labels: labels},
		AddressType: family,
		Ports:       []discovery.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	for _, address := range s.addresses(members) {
		slice.Endpoints = append(slice.Endpoints, discovery.Endpoint{Addresses: []string{address},
			Conditions: discovery.EndpointConditions{Ready: &ready}})
	}
	slices := s.api.DiscoveryV1().EndpointSlices("default")
	_, err := slices.Update(ctx, slice, meta.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, slice, meta.CreateOptions{})
	}
	return err
}

// markEvery is how often the real one refreshes what it says about an etcd member.
const markEvery = 15 * time.Second

// markNode gives this server's own Node what a kubelet may not: its roles, and its place in etcd.
func (s *server) markNode(ctx context.Context) {
	since := meta.Now()
	for {
		pause := markEvery
		if err := s.markOnce(ctx, since); apierrors.IsNotFound(err) {
			pause = time.Second // the kubelet registers it in a moment
		} else if err != nil && ctx.Err() == nil {
			logrus.Warnf("standin: failed to mark this server's Node: %v", err)
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
}

func (s *server) markOnce(ctx context.Context, since meta.Time) error {
	type object = map[string]any
	name, err := etcdName(s.etcdDir(), s.node)
	if err != nil {
		return err
	}
	roles, err := json.Marshal(object{"metadata": object{
		"labels":      object{"node-role.kubernetes.io/control-plane": "true", "node-role.kubernetes.io/etcd": "true"},
		"annotations": object{memberName: name, "etcd.k3s.cattle.io/node-address": s.ip.String()},
		"finalizers":  []string{memberFinalizer},
	}})
	if err != nil {
		return err
	}
	status, reason, message := s.voter(ctx)
	voter, err := json.Marshal(object{"status": object{"conditions": []object{{"type": "EtcdIsVoter", "status": status,
		"reason": reason, "message": message,
		"lastHeartbeatTime": meta.Now(), "lastTransitionTime": since}}}})
	if err != nil {
		return err
	}
	nodes := s.api.CoreV1().Nodes()
	if _, err := nodes.Patch(ctx, s.node, types.StrategicMergePatchType, roles, meta.PatchOptions{}); err != nil {
		return err
	}
	_, err = nodes.Patch(ctx, s.node, types.StrategicMergePatchType, voter, meta.PatchOptions{}, "status")
	return err
}
