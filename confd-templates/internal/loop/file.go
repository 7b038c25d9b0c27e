package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"calico.internal/confd-templates/internal/resource"
)

// file is one resource with what is remembered of it between passes.
type file struct {
	resource.Resource
	config *Config
	kick   chan struct{}
	// reloadDue is set from the moment that a new version is in place until its reload command has succeeded.
	reloadDue bool
}

// pass brings the file and its reader up to date.
func (f *file) pass(ctx context.Context) error {
	start := time.Now()
	staged, err := f.config.Renderer.Render(f.Resource)
	if err != nil {
		return err
	}
	if !f.config.KeepStageFile {
		defer os.Remove(staged) //nolint:errcheck // usually it is gone, by the rename
	}
	if err := f.adorn(staged); err != nil {
		return err
	}
	changed, err := differ(staged, f.Dest)
	if err != nil {
		return err
	}
	if f.config.Noop {
		if changed {
			f.config.Logger.Info("file would be updated", "file", f.Dest)
		}
		return nil
	}
	if changed {
		if err := f.check(ctx, staged); err != nil {
			return err
		}
		if err := install(staged, f.Dest); err != nil {
			return err
		}
		f.reloadDue = f.ReloadCmd != "" && !f.config.SyncOnly
	}
	if err := f.reload(ctx); err != nil {
		return err
	}
	if changed {
		f.config.Logger.Info("file updated", "file", f.Dest, "took", time.Since(start))
	}
	return nil
}

// adorn gives the staged file its mode and owner.
func (f *file) adorn(staged string) error {
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
		if info, err := os.Stat(f.Dest); err == nil {
			mode = info.Mode().Perm()
		}
	}
	if err := os.Chmod(staged, mode); err != nil {
		return fmt.Errorf("mode of %s: %w", f.Dest, err)
	}
	if f.UID == -1 && f.GID == -1 {
		return nil
	}
	if err := os.Chown(staged, f.UID, f.GID); err != nil {
		return fmt.Errorf("owner of %s: %w", f.Dest, err)
	}
	return nil
}

func (f *file) check(ctx context.Context, staged string) error {
	if f.CheckCmd == "" || f.config.SyncOnly {
		return nil
	}
	var line strings.Builder
	command, err := template.New("check_cmd").Parse(f.CheckCmd)
	if err == nil {
		err = command.Execute(&line, map[string]string{"src": staged})
	}
	if err != nil {
		return fmt.Errorf("check_cmd: %w", err)
	}
	if err := f.config.Command(ctx, line.String(), f.config.CommandTimeout); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

func (f *file) reload(ctx context.Context) error {
	if !f.reloadDue {
		return nil
	}
	if err := f.config.Command(ctx, f.ReloadCmd, f.config.CommandTimeout); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	f.reloadDue = false
	return nil
}

// differ says whether a file has other contents, mode or owner than its new version.
func differ(staged, dest string) (bool, error) {
	want, err := describe(staged)
	if err != nil {
		return false, err
	}
	have, err := describe(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	}
	return want.mode != have.mode || want.uid != have.uid || want.gid != have.gid || !bytes.Equal(want.contents, have.contents), nil
}

type description struct {
	contents []byte
	mode     fs.FileMode
	uid, gid uint32
}

func describe(name string) (description, error) {
	contents, err := os.ReadFile(name)
	if err != nil {
		return description{}, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return description{}, err
	}
	d := description{contents: contents, mode: info.Mode()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		d.uid, d.gid = stat.Uid, stat.Gid
	}
	return d, nil
}

// install puts the new version in place, whole or not at all, so that it survives a crash of the machine. Only where
// the file is a mount of its own, which cannot be replaced, is it written in place.
func install(staged, dest string) error {
	if err := syncPath(staged); err != nil {
		return err
	}
	err := os.Rename(staged, dest)
	if errors.Is(err, syscall.EBUSY) {
		return overwrite(staged, dest)
	}
	if err != nil {
		return err
	}
	return syncPath(filepath.Dir(dest))
}

func overwrite(staged, dest string) error {
	contents, err := os.ReadFile(staged)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(dest, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(contents)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncPath(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
