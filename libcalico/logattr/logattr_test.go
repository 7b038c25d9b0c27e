package logattr_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"calico.internal/libcalico/logattr"
)

func TestFormats(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{
		"":     `level=INFO msg=started node=n1`,
		"text": `level=INFO msg=started node=n1`,
		"json": `"level":"INFO","msg":"started","node":"n1"`,
	} {
		var out bytes.Buffer
		logattr.New(&out, slog.LevelInfo, format).Info("started", logattr.Node, "n1")
		if !strings.Contains(out.String(), want) {
			t.Errorf("format %q: got %s, want it to hold %s", format, out.String(), want)
		}
	}
}

func TestRepeatedErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := logattr.New(&out, slog.LevelDebug, "text").With(logattr.Node, "n1")
		fail := func(key, text string) {
			log.Error("apply", logattr.Key, key, logattr.Err, errors.New(text), logattr.Took, time.Since(time.Time{}))
		}
		lines := func() int { return strings.Count(out.String(), "\n") }
		expect := func(what string, want int) {
			t.Helper()
			if got := lines(); got != want {
				t.Fatalf("%s: %d lines, want %d:\n%s", what, got, want, out.String())
			}
		}
		fail("a", "broken")
		expect("first", 1)
		for range 10 {
			fail("a", "broken")
		}
		expect("the same again", 1)
		fail("b", "broken")
		expect("another object", 2)
		fail("a", "worse")
		expect("another text", 3)
		if !strings.Contains(out.String(), "repeated=10") {
			t.Errorf("the ten left out are not counted:\n%s", out.String())
		}
		<-time.After(4 * time.Minute)
		fail("a", "worse")
		expect("after four minutes", 3)
		<-time.After(2 * time.Minute)
		fail("a", "worse")
		expect("after six minutes", 4)
		for range 3 {
			log.Info("tick")
		}
		expect("infos", 7)
		log.With(logattr.Node, "n2").Error("apply", logattr.Key, "a", logattr.Err, errors.New("worse"))
		expect("another logger", 8)
	})
}

func TestRepeatForgets(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := logattr.New(&out, slog.LevelInfo, "")
	for i := range 5000 {
		log.Warn("bad", logattr.Key, fmt.Sprint(i))
	}
	if got := strings.Count(out.String(), "\n"); got != 5000 {
		t.Errorf("%d of 5000 different warnings were shown", got)
	}
}

func TestParseLevel(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]slog.Level{
		"": slog.LevelInfo, "info": slog.LevelInfo, "DEBUG": slog.LevelDebug, "Warning": slog.LevelWarn,
		"warn": slog.LevelWarn, "error": slog.LevelError, "none": slog.LevelError, "fatal": slog.LevelError,
	} {
		got, err := logattr.ParseLevel(in)
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
	if _, err := logattr.ParseLevel("loud"); err == nil {
		t.Error(`"loud" is accepted`)
	}
}
