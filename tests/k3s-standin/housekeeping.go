package main

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"
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
	if err := poll(ctx, time.Second, "the kubernetes endpoint", func() error { return s.publishAPI(ctx) }); err != nil {
		return err
	}
	go s.scheduleSnapshots(ctx)
	for {
		if err := s.tendNodePasswords(ctx); err != nil && ctx.Err() == nil {
			logrus.Warnf("standin: failed to look after node passwords: %v", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tendEvery):
		}
	}
}

// publishAPI makes the address of Service default/kubernetes this server's public port: the apiserver itself listens
// on loopback only, so its own way of doing that is off.
func (s *server) publishAPI(ctx context.Context) error {
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
		Endpoints: []discovery.Endpoint{{Addresses: []string{s.ip.String()},
			Conditions: discovery.EndpointConditions{Ready: &ready}}},
		Ports: []discovery.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	slices := s.api.DiscoveryV1().EndpointSlices("default")
	_, err := slices.Update(ctx, slice, meta.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, slice, meta.CreateOptions{})
	}
	return err
}

// labelNode marks this server's own Node with its roles; a kubelet may not do that itself.
func (s *server) labelNode(ctx context.Context) {
	patch := []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":"true",` +
		`"node-role.kubernetes.io/etcd":"true"}}}`)
	err := poll(ctx, time.Second, "this server's Node", func() error {
		_, err := s.api.CoreV1().Nodes().Patch(ctx, s.node, types.StrategicMergePatchType, patch, meta.PatchOptions{})
		return err
	})
	if err != nil {
		logrus.Warnf("standin: failed to label the Node: %v", err)
	}
}
