package kube

import (
	"context"
	"fmt"
	"net"
	"os"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const resource = "nodes"

// client speaks to the API server about nodes, in protobuf: a list of thousands of nodes is a third of what it is in
// JSON. The scheme holds core/v1 alone; a clientset would link every other group as well.
type client struct {
	rest   rest.Interface
	params runtime.ParameterCodec
	server string
}

// dialer connects; nil is the usual one.
type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

func newClient(kubeconfig string, dial dialer) (*client, error) {
	config, err := load(kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Dial = dial
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("types of core/v1: %w", err)
	}
	config.APIPath = "/api"
	config.GroupVersion = &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.UserAgent = "cniblocks-agent"
	config.WarningHandler = rest.NoWarnings{}
	rc, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server %s: %w", config.Host, err)
	}
	return &client{rest: rc, params: runtime.NewParameterCodec(scheme), server: config.Host}, nil
}

// load reads a kubeconfig file, or without one what a pod finds of its service account.
func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("no kubeconfig is stated, and this is no pod with a service account: %w; state the file", err)
	}
	if config.BearerTokenFile == "" {
		return config, nil
	}
	if _, err := os.Stat(config.BearerTokenFile); err != nil {
		return nil, fmt.Errorf("token of the service account: %w", err)
	}
	return config, nil
}

// close ends the connections that nobody uses.
func (c *client) close() {
	if rc, ok := c.rest.(*rest.RESTClient); ok && rc.Client != nil {
		utilnet.CloseIdleConnectionsFor(rc.Client.Transport)
	}
}

// pageSize is how many whole Nodes are in memory at a time.
const pageSize = 250

// list lists the nodes, stripped, page by page and as they are now, whatever state o asks for: a list from the API
// server's cache comes in one piece, which for thousands of nodes are hundreds of megabytes, and may be an old one. An API
// server with an etcd from 3.4.25 on sends a stream instead, and nobody lists.
func (c *client) list(ctx context.Context, o metav1.ListOptions) (*corev1.NodeList, error) {
	o.ResourceVersion, o.ResourceVersionMatch, o.Limit, o.Continue = "", "", pageSize, ""
	all := &corev1.NodeList{}
	for {
		page := &corev1.NodeList{}
		if err := c.rest.Get().Resource(resource).VersionedParams(&o, c.params).Do(ctx).Into(page); err != nil {
			return nil, err
		}
		for i := range page.Items {
			all.Items = append(all.Items, *strip(&page.Items[i]))
		}
		all.ResourceVersion = page.ResourceVersion
		if o.Continue = page.Continue; o.Continue == "" {
			return all, nil
		}
	}
}

func (c *client) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return c.rest.Get().Resource(resource).VersionedParams(&o, c.params).Watch(ctx)
}

func (c *client) get(ctx context.Context, name string) (*corev1.Node, error) {
	n := &corev1.Node{}
	err := c.rest.Get().Resource(resource).Name(name).Do(ctx).Into(n)
	return n, err
}

// patch merges a document into a node or, with a subresource, into that.
func (c *client) patch(ctx context.Context, kind types.PatchType, name string, doc []byte, subresource ...string) (*corev1.Node, error) {
	n := &corev1.Node{}
	err := c.rest.Patch(kind).Resource(resource).Name(name).SubResource(subresource...).Body(doc).Do(ctx).Into(n)
	return n, err
}

// only selects one node by its name.
func only(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }

// gone says that the API server does not remember a state so old: what is to be done is to list anew.
func gone(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// class is what kind of trouble an error is. Errors of the network differ in the port that they name and are one class.
func class(err error) string {
	if err == nil {
		return ""
	}
	if r := apierrors.ReasonForError(err); r != metav1.StatusReasonUnknown {
		return string(r)
	}
	return "unreachable"
}
