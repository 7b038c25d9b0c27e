package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pure names the packages without I/O, clock and log, and what they may import besides
// the standard library.
var pure = map[string][]string{
	"internal/config": {"calico.internal/libcalico/model", "github.com/pelletier/go-toml/v2", "github.com/pelletier/go-toml/v2/unstable"},
	"internal/calc":   {"calico.internal/bgpd/internal/config", "calico.internal/libcalico/model"},
}

// forbidden are imports with the reason why.
var forbidden = map[string]string{
	"calico.internal/felix":             "programs meet only through etcd, files and gRPC",
	"calico.internal/calicoctl":         "programs meet only through etcd, files and gRPC",
	"calico.internal/libnetwork-plugin": "programs meet only through etcd, files and gRPC",
	"calico.internal/confd-templates":   "programs meet only through etcd, files and gRPC",
	"log":                               "log/slog, injected",
	"github.com/sirupsen/logrus":        "log/slog, injected",
}

// impure are standard packages that a pure one must not have.
var impure = []string{"os", "net", "io/fs", "context", "sync", "syscall", "net/http", "os/exec"}

func TestHygiene(t *testing.T) {
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || d.Name() == "testdata" {
			return err
		}
		checkPackage(t, root, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkPackage(t *testing.T, root, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	docs, sources := 0, 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		sources++
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil {
			docs++
		}
		checkImports(t, rel, f)
		checkDocs(t, file, f)
	}
	if sources > 0 && docs != 1 {
		t.Errorf("%s has %d package comments, want 1", rel, docs)
	}
}

func checkImports(t *testing.T, pkg string, f *ast.File) {
	t.Helper()
	allowed, isPure := pure[pkg]
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		for prefix, why := range forbidden {
			if path == prefix || strings.HasPrefix(path, prefix+"/") && strings.Contains(prefix, ".") {
				t.Errorf("%s imports %s: %s", pkg, path, why)
			}
		}
		std := !strings.Contains(strings.Split(path, "/")[0], ".")
		if isPure && (std && slices.Contains(impure, path) || !std && !slices.Contains(allowed, path)) {
			t.Errorf("%s imports %s, but it is pure", pkg, path)
		}
	}
}

// checkDocs wants a comment on each exported name.
func checkDocs(t *testing.T, file string, f *ast.File) {
	t.Helper()
	missing := func(name string) { t.Errorf("%s: %s has no comment", file, name) }
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && d.Doc == nil {
				missing(d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if s, ok := spec.(*ast.TypeSpec); ok && s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
					missing(s.Name.Name)
				}
				if s, ok := spec.(*ast.ValueSpec); ok && s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					missing(s.Names[0].Name)
				}
			}
		}
	}
}
