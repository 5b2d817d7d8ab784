package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// Ended is how the programs ended that were called last, where not all of them did well.
type Ended struct {
	At     time.Time `json:"at"`
	Failed []string  `json:"failed"` // why, for people, one for each that was not run or failed
}

// maxEnded is far beyond what maxPrograms leave, in bytes.
const maxEnded = 64 << 10

// Leave writes to path, in the runtime directory, how the programs ended, for whoever asks
// later: nobody may have read the journal. None that failed takes away what the last call left.
func Leave(path string, at time.Time, errs []error) error {
	e := Ended{At: at}
	for _, err := range errs {
		e.Failed = append(e.Failed, err.Error())
	}
	err := crew.Try(filepath.Dir(path), func() error {
		if len(errs) == 0 {
			return durable.Remove(path)
		}
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		return durable.WriteFile(path, data, durable.Attr{Mode: 0o600, UID: -1, GID: -1})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was left, or there is no such directory
	}
	return err
}

// Left reads what Leave wrote, the zero value where all ended well.
func Left(path string) (Ended, error) {
	return crew.Within(filepath.Dir(path), func() (e Ended, err error) {
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return e, nil
		case err != nil:
			return e, err
		case !info.Mode().IsRegular() || info.Size() > maxEnded:
			return e, fmt.Errorf("%s is not what keyguard writes there", path)
		}
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &e)
		}
		return e, err
	}, nil)
}
