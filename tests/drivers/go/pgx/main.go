// pgx: named statements in the binary format with a cache, batches in one pipeline, CopyFrom, cancel by context.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	text = "naïve 漢字 😀 \u0301 'quoted' \\ \t"
	big  = 4 << 20
)

var (
	ctx   = context.Background()
	table = os.Getenv("TABLE")
)

type skip string

func (s skip) Error() string { return string(s) }

// Host, port, user, password and database are in the environment.
func opened(options string) *pgx.Conn {
	c, err := pgx.Connect(ctx, "sslmode=disable "+options)
	must(err)
	return c
}

// An error ends the step.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func same(got, want interface{}) {
	if !reflect.DeepEqual(got, want) {
		panic(fmt.Errorf("got %.80v, expected %.80v", got, want))
	}
}

func state(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// Fails the step unless this is an error of that SQLSTATE (without one: any error).
func raises(want string, err error) {
	if err == nil || want != "" && state(err) != want {
		panic(fmt.Errorf("%v, expected %s", err, want))
	}
}

type querier interface {
	QueryRow(context.Context, string, ...interface{}) pgx.Row
}

func number(c querier, sql string, values ...interface{}) (n int) {
	must(c.QueryRow(ctx, sql, values...).Scan(&n))
	return
}

func word(c querier, sql string, values ...interface{}) (s string) {
	must(c.QueryRow(ctx, sql, values...).Scan(&s))
	return
}

func exec(c *pgx.Conn, sql string, values ...interface{}) int64 {
	tag, err := c.Exec(ctx, sql, values...)
	must(err)
	return tag.RowsAffected()
}

func failing(c *pgx.Conn, sql string, values ...interface{}) error {
	_, err := c.Exec(ctx, sql, values...)
	return err
}

var names = strings.Fields("connect crud transaction rollback prepared reprepared batch copy cursor cancel timeout error null binary array unicode latin1 large settings reconnect")

var steps = map[string]func(c *pgx.Conn){
	"connect": func(c *pgx.Conn) {
		same(number(c, "SELECT 1"), 1)
		major, _ := strconv.Atoi(strings.FieldsFunc(c.PgConn().ParameterStatus("server_version"), func(r rune) bool { return r == '.' || r == ' ' })[0])
		same(major >= 14, true)
		exec(c, "TRUNCATE "+table)
	},
	"crud": func(c *pgx.Conn) {
		same(exec(c, "INSERT INTO "+table+"(id, name) VALUES ($1, $2), (2, 'b')", 1, "a"), int64(2))
		exec(c, "UPDATE "+table+" SET name = $1 WHERE id = $2", "c", 1)
		same(word(c, "SELECT name FROM "+table+" WHERE id = $1", 1), "c")
		same(exec(c, "DELETE FROM "+table), int64(2))
	},
	"transaction": func(c *pgx.Conn) {
		must(c.BeginFunc(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO "+table+"(id) VALUES ($1), ($2)", 10, 11)
			return err
		}))
		same(number(c, "SELECT count(*) FROM "+table+" WHERE id IN (10, 11)"), 2)
	},
	"rollback": func(c *pgx.Conn) {
		count := "SELECT count(*) FROM " + table + " WHERE id IN (20, 21)"
		tx, err := c.Begin(ctx)
		must(err)
		exec(c, "INSERT INTO "+table+"(id) VALUES ($1)", 20)
		inner, err := tx.Begin(ctx)
		must(err)
		exec(c, "INSERT INTO "+table+"(id) VALUES ($1)", 21)
		must(inner.Rollback(ctx))
		same(number(tx, count), 1)
		must(tx.Rollback(ctx))
		same(number(c, count), 0)
	},
	"prepared": func(c *pgx.Conn) {
		_, err := c.Prepare(ctx, "plus", "SELECT $1::int + 1")
		must(err)
		_, err = c.Prepare(ctx, "upper", "SELECT upper($1::text)")
		must(err)
		for n := 0; n < 30; n++ {
			same(number(c, "plus", n), n+1)
			same(word(c, "upper", fmt.Sprint("n", n)), fmt.Sprint("N", n))
		}
		must(c.Deallocate(ctx, "plus"))
		must(c.Deallocate(ctx, "upper"))
	},
	"reprepared": func(c *pgx.Conn) {
		for n := 0; n < 10; n++ { // the same name with another text
			_, err := c.Prepare(ctx, "again", fmt.Sprint("SELECT $1::int + ", n))
			must(err)
			same(number(c, "again", n), n+n)
			must(c.Deallocate(ctx, "again"))
		}
		for _, mode := range []string{"prepare", "describe"} { // caches of two; "describe" binds the unnamed statement
			other := opened("statement_cache_capacity=2 statement_cache_mode=" + mode)
			for n := 0; n < 20; n++ {
				same(number(other, fmt.Sprint("SELECT $1::int + ", n%5), n), n+n%5)
			}
			must(other.Close(ctx))
		}
	},
	"batch": func(c *pgx.Conn) {
		batch := &pgx.Batch{}
		for n := 0; n < 50; n++ {
			batch.Queue("SELECT $1::int", n)
		}
		results := c.SendBatch(ctx, batch)
		for n := 0; n < 50; n++ {
			var got int
			must(results.QueryRow().Scan(&got))
			same(got, n)
		}
		must(results.Close())
		broken := &pgx.Batch{}
		for _, n := range []int{1, 0, 2} {
			broken.Queue("SELECT 1 / $1::int", n)
		}
		results = c.SendBatch(ctx, broken)
		var got int
		must(results.QueryRow().Scan(&got))
		raises("22012", results.QueryRow().Scan(&got))
		raises("22012", results.Close())
		raises("22012", failing(c, "SELECT 1; SELECT 1 / 0; SELECT 2"))
	},
	"copy": func(c *pgx.Conn) {
		rows := make([][]interface{}, 1000)
		for n := range rows {
			rows[n] = []interface{}{n + 1000, fmt.Sprint("row ", n)}
		}
		copied, err := c.CopyFrom(ctx, pgx.Identifier{table}, []string{"id", "name"}, pgx.CopyFromRows(rows))
		must(err)
		same(copied, int64(1000))
		found := &bytes.Buffer{}
		_, err = c.PgConn().CopyTo(ctx, found, "COPY (SELECT id FROM "+table+" WHERE id >= 1000) TO STDOUT")
		must(err)
		same(strings.Count(found.String(), "\n"), 1000)
		_, err = c.PgConn().CopyFrom(ctx, strings.NewReader("not a number\n"), "COPY "+table+"(id) FROM STDIN")
		raises("22P02", err)
		same(number(c, "SELECT 1"), 1)
	},
	"cursor": func(c *pgx.Conn) {
		must(c.BeginFunc(ctx, func(tx pgx.Tx) error {
			exec(c, "DECLARE portal CURSOR FOR SELECT generate_series(1, 500)")
			sum := 0
			for part := 0; part < 5; part++ {
				rows, err := tx.Query(ctx, "FETCH 100 FROM portal")
				must(err)
				for rows.Next() {
					var n int
					must(rows.Scan(&n))
					sum += n
				}
			}
			same(sum, 125250)
			return nil
		}))
	},
	"cancel": func(c *pgx.Conn) {
		// The driver's own reaction to a deadline is to close; a cancel request has to be asked for.
		go func() {
			time.Sleep(200 * time.Millisecond)
			_ = c.PgConn().CancelRequest(ctx)
		}()
		raises("57014", failing(c, "SELECT pg_sleep(20)"))
		same(number(c, "SELECT 1"), 1)
		other := opened("")
		soon, done := context.WithTimeout(ctx, 200*time.Millisecond)
		defer done()
		_, err := other.Exec(soon, "SELECT pg_sleep(20)")
		raises("", err)
		same(other.IsClosed(), true)
	},
	"timeout": func(c *pgx.Conn) {
		tx, err := c.Begin(ctx)
		must(err)
		exec(c, "SET LOCAL statement_timeout = '100ms'")
		raises("57014", failing(c, "SELECT pg_sleep(20)"))
		must(tx.Rollback(ctx))
		same(number(c, "SELECT 1"), 1)
	},
	"error": func(c *pgx.Conn) {
		raises("22012", failing(c, "SELECT 10 / $1::int", 0))
		tx, err := c.Begin(ctx)
		must(err)
		raises("42703", failing(c, "SELECT nothing"))
		raises("25P02", failing(c, "SELECT 1"))
		must(tx.Rollback(ctx))
		same(number(c, "SELECT 10 / $1::int", 2), 5)
	},
	"null": func(c *pgx.Conn) {
		exec(c, "INSERT INTO "+table+"(id, name) VALUES ($1, $2)", 30, nil)
		var name *string
		must(c.QueryRow(ctx, "SELECT name FROM "+table+" WHERE id = 30").Scan(&name))
		same(name, (*string)(nil))
	},
	"binary": func(c *pgx.Conn) {
		all := make([]byte, 256)
		for n := range all {
			all[n] = byte(n)
		}
		exec(c, "INSERT INTO "+table+"(id, data) VALUES ($1, $2)", 40, all)
		var data []byte
		must(c.QueryRow(ctx, "SELECT data FROM "+table+" WHERE id = 40").Scan(&data))
		same(data, all)
	},
	"array": func(c *pgx.Conn) {
		var tags, found pgtype.TextArray
		must(tags.Set([]string{"plain", `quo"te`, "comma,", `back\slash`, "", "x", "NULL", "ü"}))
		tags.Elements[5] = pgtype.Text{Status: pgtype.Null}
		exec(c, "INSERT INTO "+table+"(id, tags) VALUES ($1, $2)", 50, &tags)
		must(c.QueryRow(ctx, "SELECT tags FROM "+table+" WHERE id = 50").Scan(&found))
		same(found, tags)
	},
	"unicode": func(c *pgx.Conn) {
		same(word(c, "SELECT $1::text", text), text)
		same(number(c, "SELECT length($1::text)", text), len([]rune(text)))
	},
	"latin1": func(*pgx.Conn) { panic(skip("the driver speaks UTF-8 only")) },
	"large": func(c *pgx.Conn) {
		exec(c, "INSERT INTO "+table+"(id, name) VALUES (60, $1)", strings.Repeat("x", big))
		same(len(word(c, "SELECT name FROM "+table+" WHERE id = 60")), big)
		rows, err := c.Query(ctx, "SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n")
		must(err)
		count := 0
		for rows.Next() {
			count++
		}
		same(count, 20000)
	},
	"settings": func(c *pgx.Conn) {
		exec(c, "SET TIME ZONE 'Asia/Tokyo'")
		other := opened("timezone=Asia/Tokyo application_name=options")
		for n := 0; n < 20; n++ {
			same(word(c, "SELECT current_setting('TimeZone')"), "Asia/Tokyo")
			same(word(other, "SELECT current_setting('TimeZone')"), "Asia/Tokyo")
		}
		must(other.Close(ctx))
		exec(c, "RESET TIME ZONE")
	},
	"reconnect": func(c *pgx.Conn) {
		pool, err := pgxpool.Connect(ctx, "sslmode=disable pool_max_conns=2")
		must(err)
		for n := 0; n < 5; n++ {
			var got int
			must(pool.QueryRow(ctx, "SELECT $1::int", n).Scan(&got))
			same(got, n)
		}
		pool.Close()
		raises("", failing(c, "SELECT pg_terminate_backend(pg_backend_pid())"))
		other := opened("")
		same(number(other, "SELECT $1::int", 7), 7)
		must(other.Close(ctx))
	},
}

// Runs one step; what it panicked with is its result.
func attempt(step func(*pgx.Conn), c **pgx.Conn) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("%w", reason.(error))
		}
	}()
	if *c == nil {
		*c = opened("")
	}
	step(*c)
	return nil
}

func main() {
	fmt.Println("version", os.Getenv("VERSION"))
	failed := false
	laps, _ := strconv.Atoi(os.Getenv("LAPS"))
	for lap := 0; lap < laps || lap == 0; lap++ {
		var c *pgx.Conn
		for _, name := range names {
			err := attempt(steps[name], &c)
			var why skip
			switch {
			case err == nil:
				fmt.Println("ok", name)
			case errors.As(err, &why):
				fmt.Println("skip", name, why)
			default:
				failed = true
				fmt.Printf("FAIL %s %.160s\n", name, strings.Join(strings.Fields(err.Error()), " "))
				if c != nil {
					soon, done := context.WithTimeout(ctx, time.Second)
					_ = c.Close(soon)
					done()
				}
				c = nil
			}
		}
		if c != nil {
			_ = c.Close(ctx)
		}
	}
	if failed {
		os.Exit(1)
	}
}
