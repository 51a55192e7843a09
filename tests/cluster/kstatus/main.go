// Reads a JSON list of Kubernetes objects on standard input; writes, as a JSON list in the same order, what kstatus
// makes of each: the library by which Flux and cli-utils know whether an object has become what its spec says.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	kjson "sigs.k8s.io/json"
)

type answer struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func answers(input io.Reader) ([]answer, error) {
	text, err := io.ReadAll(input)
	if err != nil {
		return nil, fmt.Errorf("reading the objects: %w", err)
	}
	// As Kubernetes reads JSON: whole numbers stay whole, or observedGeneration is not one.
	var objects []map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &objects); err != nil {
		return nil, fmt.Errorf("the objects are not a JSON list of objects: %w", err)
	}
	found := make([]answer, 0, len(objects))
	for _, object := range objects {
		result, err := status.Compute(&unstructured.Unstructured{Object: object})
		if err != nil {
			return nil, fmt.Errorf("computing a status: %w", err)
		}
		found = append(found, answer{result.Status.String(), result.Message})
	}
	return found, nil
}

func main() {
	found, err := answers(os.Stdin)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
