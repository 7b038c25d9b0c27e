package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// Plan is a container to be made, as the engine's API has it: with the fields of a container's
// Config and HostConfig that the engine tells.
type Plan struct {
	Config, HostConfig map[string]any
}

// Create makes a container of a name; it does not start it.
func Create(ctx context.Context, host, name string, c Plan) error {
	e, done, err := connect(host)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body := map[string]any{"HostConfig": c.HostConfig}
	maps.Copy(body, c.Config)
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("container %s: %w", name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker.engine/containers/create?name="+url.QueryEscape(name), bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.http.Do(req)
	if err != nil {
		return fmt.Errorf("Docker's engine at %s does not answer: %w", e.host, cause(err)) //nolint:staticcheck // ST1005: a name
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode == http.StatusCreated {
		return nil
	}
	var answer struct{ Message string }
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if json.Unmarshal(said, &answer) != nil {
		answer.Message = strings.TrimSpace(string(said))
	}
	return fmt.Errorf("Docker's engine at %s makes no container %s: %s: %s", e.host, name, resp.Status, answer.Message) //nolint:staticcheck // ST1005: a name
}
