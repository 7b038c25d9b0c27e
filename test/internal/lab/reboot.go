package lab

import (
	"context"
	"fmt"
)

// Reboot shuts a host down in order and starts it again, with a boot id of its own. It returns
// before the host serves.
func (h Host) Reboot(ctx context.Context) error {
	_, err := output(ctx, "docker", "restart", "-t", "30", h.Container)
	return err
}

// CutPower kills all that runs on a host at once, and starts the host again as [Host.Reboot] does.
func (h Host) CutPower(ctx context.Context) error {
	if _, err := output(ctx, "docker", "kill", h.Container); err != nil {
		return err
	}
	_, err := output(ctx, "docker", "start", h.Container)
	return err
}

// EngineServes says whether the host's engine serves.
func (h Host) EngineServes(ctx context.Context) error {
	if _, err := h.On(ctx, "test -e /run/lab-host.ready"); err != nil {
		return fmt.Errorf("the engine of %s does not serve yet: %w", h.Node, err)
	}
	return nil
}
