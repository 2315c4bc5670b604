// Package suite is upstream's conformance suite as a test binary: `cargo xtask conformance` builds it, gives it upstream's own flags
// and reads what it says.
//
// Manifests are upstream's, byte for byte: the cluster has the images under the names that stand there.
package suite

import (
	"context"
	"maps"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	options.Client = meshed{options.Client, options.NamespaceLabels}
	options.NamespaceLabels = nil
	conformance.RunConformanceWithOptions(t, options)
}

// meshed gives the labels of upstream's flag --namespace-labels to the namespaces of the mesh only. Upstream gives them to all of its
// namespaces, but a sidecar in front of a Gateway's backend accepts what a test of retries wants to see refused.
type meshed struct {
	client.Client
	labels map[string]string
}

func (m meshed) Create(ctx context.Context, object client.Object, options ...client.CreateOption) error {
	m.label(object)
	return m.Client.Create(ctx, object, options...)
}

func (m meshed) Update(ctx context.Context, object client.Object, options ...client.UpdateOption) error {
	m.label(object)
	return m.Client.Update(ctx, object, options...)
}

func (m meshed) label(object client.Object) {
	isNamespace := object.GetObjectKind().GroupVersionKind().Kind == "Namespace"
	if isNamespace && strings.HasPrefix(object.GetName(), "gateway-conformance-mesh") && len(m.labels) > 0 {
		labels := maps.Clone(object.GetLabels())
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, m.labels)
		object.SetLabels(labels)
	}
}
