// Package suite is upstream's conformance suite as a test binary: `cargo xtask conformance` builds it, gives it upstream's own flags
// and reads what it says.
//
// Manifests are upstream's, byte for byte: the cluster has the images under the names that stand there.
package suite

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformanceWithOptions(t, conformance.DefaultOptions(t))
}
