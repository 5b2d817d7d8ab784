// Package textfile writes metrics to a file for the textfile collector of Prometheus' node exporter.
package textfile

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"

	prom "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// Metric is one number for Prometheus, a gauge.
type Metric struct {
	Name, Help string
	Samples    []Sample
}

// Sample is one value of a metric, with its labels: name, value, name, value.
type Sample struct {
	Labels []string
	Value  float64
}

// ErrNotWritten says that the file of metrics cannot be written where it is to be.
var ErrNotWritten = errors.New("cannot write the metrics")

// Write replaces the file at path, which the textfile collector of Prometheus'
// node exporter reads: at every moment it is whole. Its directory is not made: the error
// is fs.ErrNotExist where nobody collects, and always an ErrNotWritten where it is the file's;
// where its directory hangs it is crew.ErrHangs besides.
func Write(path string, list []Metric) error {
	var text bytes.Buffer
	for _, m := range list {
		family := prom.MetricFamily{Name: &m.Name, Help: &m.Help, Type: prom.MetricType_GAUGE.Enum()}
		for _, s := range m.Samples {
			one := &prom.Metric{Gauge: &prom.Gauge{Value: &s.Value}}
			for i := 0; i+1 < len(s.Labels); i += 2 {
				value := printable.Line(s.Labels[i+1])
				one.Label = append(one.Label, &prom.LabelPair{Name: &s.Labels[i], Value: &value})
			}
			family.Metric = append(family.Metric, one)
		}
		if len(family.Metric) == 0 {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&text, &family); err != nil {
			return fmt.Errorf("cannot write metric %s: %w", m.Name, err)
		}
	}
	err := crew.Try(filepath.Dir(path), func() error {
		return durable.WriteFile(path, text.Bytes(), durable.Attr{Mode: 0o644, UID: -1, GID: -1})
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotWritten, err)
	}
	return nil
}
