package faultlist_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/test/internal/faultlist"
)

func TestParse(t *testing.T) {
	rows, err := faultlist.Parse("# Text\n\n| row | what | test | measured |\n|---|---|---|---|\n" +
		"| 1 | felix dies | `felix/internal/daemon` TestA, TestB/x; `test/faults` TestC | hold |\n\n| other | table |\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []faultlist.Row{{ID: "1", What: "felix dies", Measured: "hold", Tests: []faultlist.Test{
		{Package: "felix/internal/daemon", Name: "TestA"}, {Package: "felix/internal/daemon", Name: "TestB/x"}, {Package: "test/faults", Name: "TestC"},
	}}}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseNamesABadRow(t *testing.T) {
	for name, line := range map[string]string{
		"no test":       "| 1 | felix dies | none | hold |",
		"too few cells": "| 1 | felix dies |",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := faultlist.Parse("| row | what | test | measured |\n|---|---|---|---|\n" + line + "\n")
			if err == nil || !strings.Contains(err.Error(), "line 3") {
				t.Errorf("error %v, want one that names line 3", err)
			}
		})
	}
}
