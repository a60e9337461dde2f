package main

import (
	"os"
	"testing"
)

// The server's table of types is that of the Kubernetes this module depends on.
func TestServersTypesAreThoseOfKubernetes(t *testing.T) {
	const path = "../../server/src/registry/template/kubernetes.types"
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != templateTypes() {
		t.Fatalf("%s is not what `interop template-types` prints: write it anew", path)
	}
}
