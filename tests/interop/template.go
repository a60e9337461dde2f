package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strings"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// templateData is what SPIRE's controller manager gives to the templates of a ClusterSPIFFEID.
type templateData struct {
	TrustDomain   string
	ClusterName   string
	ClusterDomain string
	PodMeta       *metav1.ObjectMeta
	PodSpec       *corev1.PodSpec
	NodeMeta      *metav1.ObjectMeta
	NodeSpec      *corev1.NodeSpec
}

// templateCase is a template, and the objects that it is rendered with.
type templateCase struct {
	Template      string      `json:"template"`
	TrustDomain   string      `json:"trust_domain"`
	ClusterName   string      `json:"cluster_name"`
	ClusterDomain string      `json:"cluster_domain"`
	Pod           corev1.Pod  `json:"pod"`
	Node          corev1.Node `json:"node"`
}

// templateCommand renders templates with Go's text/template: one case a line comes in, one event a line goes out.
func templateCommand(_ context.Context, args []string) error {
	if err := parse(flags("template"), args); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var c templateCase
		if err := json.Unmarshal(line, &c); err != nil {
			return fmt.Errorf("a case is no JSON: %w", err)
		}
		emit("rendered", c.bounded())
	}
}

// A template can go on for ever, as {{ range .PodSpec.ActiveDeadlineSeconds }} does over a large number.
const (
	maxTime = time.Minute
	maxText = 1 << 20
)

func (c *templateCase) bounded() fields {
	done := make(chan fields, 1)
	go func() { done <- c.render() }()
	select {
	case outcome := <-done:
		return outcome
	case <-time.After(maxTime):
		return fields{"stage": "endless"}
	}
}

var errTooLong = errors.New("too long")

// boundedText fails when it is to hold more than maxText.
type boundedText struct{ bytes.Buffer }

func (b *boundedText) Write(text []byte) (int, error) {
	if b.Len()+len(text) > maxText {
		return 0, errTooLong
	}
	return b.Buffer.Write(text)
}

func (c *templateCase) render() fields {
	parsed, err := template.New("test").Parse(c.Template)
	if err != nil {
		return fields{"stage": "parse", "error": err.Error()}
	}
	var out boundedText
	err = parsed.Execute(&out, &templateData{
		TrustDomain:   c.TrustDomain,
		ClusterName:   c.ClusterName,
		ClusterDomain: c.ClusterDomain,
		PodMeta:       &c.Pod.ObjectMeta,
		PodSpec:       &c.Pod.Spec,
		NodeMeta:      &c.Node.ObjectMeta,
		NodeSpec:      &c.Node.Spec,
	})
	if errors.Is(err, errTooLong) {
		return fields{"stage": "endless"}
	}
	if err != nil {
		return fields{"stage": "execute", "error": strings.ReplaceAll(err.Error(), "main.templateData", "spireentry.templateData")}
	}
	return fields{"stage": "done", "text": out.String()}
}

// templateTypesCommand prints the types of what templates see, as the server has them in kubernetes.types.
func templateTypesCommand(_ context.Context, args []string) error {
	if err := parse(flags("template-types"), args); err != nil {
		return err
	}
	_, err := fmt.Print(templateTypes())
	return err
}

func templateTypes() string {
	types := &typeTable{known: map[string]reflect.Type{}, text: map[string]string{}}
	for _, root := range []any{metav1.ObjectMeta{}, corev1.PodSpec{}, corev1.NodeSpec{}} {
		types.add(reflect.TypeOf(root))
	}
	names := make([]string, 0, len(types.text))
	for name := range types.text {
		names = append(names, name)
	}
	sort.Strings(names)
	var out strings.Builder
	out.WriteString("# Written by `interop template-types` from Kubernetes' own source. A field: its name in Go, in JSON (+ for embedded), its type.\n")
	for _, name := range names {
		out.WriteString(types.text[name])
	}
	return out.String()
}

type typeTable struct {
	known map[string]reflect.Type
	text  map[string]string
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// add writes a type and those that it is made of.
func (t *typeTable) add(typ reflect.Type) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		if typ.Name() == "" {
			t.add(typ.Elem())
			return
		}
	case reflect.Map:
		if typ.Name() == "" {
			t.add(typ.Key())
			t.add(typ.Elem())
			return
		}
	}
	name := typ.String()
	if typ.PkgPath() == "" {
		return
	}
	if other, ok := t.known[name]; ok {
		if other != typ {
			panic(fmt.Sprintf("two types print as %s", name))
		}
		return
	}
	t.known[name] = typ
	switch {
	case reflect.PointerTo(typ).Implements(unmarshaler):
		t.text[name] = fmt.Sprintf("type %s opaque\n", name)
	case typ.Kind() == reflect.Struct:
		t.text[name] = t.structure(name, typ)
	case typ.Kind() == reflect.Map:
		t.add(typ.Key())
		t.add(typ.Elem())
		t.text[name] = fmt.Sprintf("type %s map[%s]%s\n", name, typ.Key(), typ.Elem())
	case typ.Kind() == reflect.Slice:
		t.add(typ.Elem())
		t.text[name] = fmt.Sprintf("type %s []%s\n", name, typ.Elem())
	default:
		t.text[name] = fmt.Sprintf("type %s %s\n", name, typ.Kind())
	}
}

func (t *typeTable) structure(name string, typ reflect.Type) string {
	var out strings.Builder
	fmt.Fprintf(&out, "struct %s\n", name)
	for i := range typ.NumField() {
		field := typ.Field(i)
		if !field.IsExported() {
			continue
		}
		t.add(field.Type)
		key, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous && (strings.Contains(options, "inline") || key == ""):
			key = "+"
		case key == "":
			panic(fmt.Sprintf("%s.%s has no name in JSON", name, field.Name))
		}
		fmt.Fprintf(&out, "  %s %s %s\n", field.Name, key, field.Type)
	}
	return out.String()
}
