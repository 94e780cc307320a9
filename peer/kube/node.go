package kube

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// node is what is kept of a Node.
type node struct {
	uid         types.UID
	podCIDRs    []string
	annotations map[string]string // those below the prefix
}

func (n node) equal(o node) bool {
	return n.uid == o.uid && slices.Equal(n.podCIDRs, o.podCIDRs) && maps.Equal(n.annotations, o.annotations)
}

// strip drops what nobody here reads of a Node: most of it, its images and conditions above all.
func strip(n *corev1.Node) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Annotations: n.Annotations},
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
	}
}
