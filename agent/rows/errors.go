package rows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// Why the rows could not be asked. None of them says anything about a key (law 6).
var (
	ErrNotListening = errors.New("nothing listens there")
	ErrUnreachable  = errors.New("the server cannot be reached")
	ErrTimeout      = errors.New("no answer in time")
	ErrLost         = errors.New("the server ended the connection")
	ErrStarting     = errors.New("the server is starting up or shutting down")
	ErrCrowded      = errors.New("the server has no connection left")
	ErrPassword     = errors.New("wrong password")
	ErrNoDatabase   = errors.New("there is no such database")
	ErrNoTable      = errors.New("there is no table secrets on the search path")
	ErrDenied       = errors.New("permission denied")
	ErrRecovery     = errors.New("the server is in recovery: a standby, or not the daemon's own any more")
	ErrRowSecurity  = errors.New("row security would hide rows of the table from this role")
	ErrLocked       = errors.New("the table is locked by another session")
	ErrRotating     = errors.New("a rotation's transaction is not over yet")
	ErrShape        = errors.New("the table is not the daemon's")
	ErrEncoding     = errors.New("the session is given the rows' names in another encoding than the daemon's")
	ErrUnknownClass = errors.New("rows of an unknown class, which may need the keyfile")
	ErrElsewhere    = errors.New("the daemon's rows may be elsewhere")
	ErrComing       = errors.New("rows may be on their way into the table")
	ErrChanging     = errors.New("the table changes faster than it can be read")
	ErrServer       = errors.New("the server answers with an error")
	ErrNonsense     = errors.New("the server's answer makes no sense")
	ErrConnection   = errors.New("the connection does not come about")
	ErrUnread       = errors.New("what the daemon's unit says of its database is not known")
	ErrURL          = errors.New("not the URL of a Postgres database")
	ErrNotFile      = errors.New("it is no file")
)

// ErrOtherTable says that there are rows like the daemon's, or may be, in another table of
// its database than the one that it uses.
var ErrOtherTable = fmt.Errorf("%w, in another table", ErrElsewhere)

// Why the rows were not rewritten. After all but ErrUnanswered they are what they were.
var (
	ErrUnopenable    = errors.New("rows that no key opens")
	ErrRotationHolds = errors.New("another rotation, or a start that settles one, holds the rows")
	ErrConcurrent    = errors.New("rows changed while they were rewritten")
	ErrReadBack      = errors.New("what was written does not read back")
	ErrUnanswered    = errors.New("the commit was not answered: the rows are all old or all new")
	ErrStalled       = errors.New("the connection stays up, nothing comes over it, and the server is not known to work")
	ErrReadOnly      = errors.New("the server or the role allows no writing")
	ErrDiskFull      = errors.New("the server's disk is full")
	ErrPooled        = errors.New("a pooler stands before the server that pools transactions")
	ErrOldServer     = errors.New("the server is older than Postgres 12")
)

// PlaceError is ErrPassword or ErrNoDatabase, with where what is wrong came from.
type PlaceError struct {
	From string // Location.From
	Err  error
}

func (e *PlaceError) Error() string { return e.Err.Error() + " (from " + printable.Line(e.From) + ")" }
func (e *PlaceError) Unwrap() error { return e.Err }

// byCode maps SQLSTATE to what it means for us (Postgres documentation, appendix A).
var byCode = map[string]error{
	"28P01": ErrPassword,
	"28000": ErrDenied, // no such role, or pg_hba.conf
	"42501": ErrDenied,
	"3D000": ErrNoDatabase,
	"42P01": ErrNoTable,
	"42703": ErrShape, // a column went away since the catalog was read
	"55P03": ErrLocked,
	"57014": ErrTimeout,
	"57P01": ErrLost,
	"57P02": ErrLost,
	"57P03": ErrStarting,
	"53300": ErrCrowded,
	"53100": ErrDiskFull,
	"25006": ErrReadOnly,
	"25P03": ErrLost, // idle in the transaction for too long
	"57P05": ErrLost, // idle between two for too long
	"25P04": ErrTimeout,
}

// explain makes a sentence of a driver's error, and nothing of it can hold the
// password: the driver's own texts, which quote the configuration, are not passed on
// unless they are of a kind that is not known, and then without it.
func (t *Table) explain(err error) error {
	var (
		server *pgconn.PgError
		dns    *net.DNSError
		errno  syscall.Errno
		large  *pgproto3.ExceededMaxBodyLenErr
	)
	switch {
	case errors.As(err, &server):
		switch kind := byCode[server.Code]; kind {
		case nil:
			return fmt.Errorf("%w: %s (SQLSTATE %s)", ErrServer, printable.Line(t.redact(server.Message)), printable.Line(server.Code))
		case ErrDenied:
			return fmt.Errorf("%w: %s", kind, printable.Line(t.redact(server.Message)))
		case ErrPassword, ErrNoDatabase:
			return &PlaceError{t.place.From, kind}
		default:
			return kind
		}
	case errors.As(err, &large):
		return fmt.Errorf("%w: %d bytes in one message", ErrNonsense, large.ActualBodyLen)
	case errors.Is(err, errUnasked):
		return errUnasked
	case errors.Is(err, errForm):
		return errForm
	case errors.Is(err, ErrStalled):
		return ErrStalled
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case pgconn.Timeout(err), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return ErrTimeout
	case errors.As(err, &dns):
		return fmt.Errorf("%w: its name is not known (%s)", ErrUnreachable, dns.Err)
	case errors.As(err, &errno):
		switch errno {
		case syscall.ECONNREFUSED, syscall.ENOENT: // ENOENT: the server's unix socket
			return ErrNotListening
		case syscall.ECONNRESET, syscall.EPIPE:
			return ErrLost
		}
		return fmt.Errorf("%w: %w", ErrUnreachable, errno)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, pgconn.ErrConnClosed),
		// The driver itself closes a connection on which it could not write, under what reads.
		errors.Is(err, net.ErrClosed):
		return ErrLost
	}
	kind := ErrConnection
	for _, words := range misunderstood {
		if strings.Contains(err.Error(), words) {
			kind = ErrNonsense
		}
	}
	return fmt.Errorf("%w: %s", kind, printable.Line(t.redact(err.Error())))
}

// misunderstood is how the driver, which has no type for it, begins to say that a message is
// not one that can come there, or none.
var misunderstood = []string{"received unexpected message", "unknown message type", "invalid message length"}

// redact takes the password out of a text. One that is also the name of the role or
// the database, as the daemon's default is, would only be pointed out by that.
func (t *Table) redact(text string) string {
	secret := t.config.Password
	if secret == "" || secret == t.config.User || secret == t.config.Database {
		return text
	}
	return strings.ReplaceAll(text, secret, "…")
}
