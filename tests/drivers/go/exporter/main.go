// What prometheus-community's pgbouncer_exporter asks the console, over the driver that it uses (lib/pq), and what it needs of the answers:
// labels must arrive as text, integers or NULL, figures as numbers; SHOW LISTS has two columns, SHOW CONFIG three or four.
package main

import (
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"

	_ "github.com/lib/pq"
)

// Columns by name: `l` is a label, `f` a figure.
var tables = map[string]string{
	"DATABASES": "name:l host:l port:l database:l force_user:l pool_size:f pool_mode:l max_connections:f current_connections:f paused:f disabled:f",
	"STATS_TOTALS": "database:l query_count:f query_time:f bytes_received:f bytes_sent:f wait_time:f xact_count:f xact_time:f " +
		"client_parse_count:f server_parse_count:f bind_count:f server_assignment_count:f",
	"POOLS": "database:l user:l cl_active:f cl_active_cancel_req:f cl_waiting:f cl_waiting_cancel_req:f sv_active:f sv_active_cancel:f " +
		"sv_being_canceled:f sv_idle:f sv_used:f sv_tested:f sv_login:f maxwait:f",
	"CLIENTS": "database:l user:l application_name:l state:l",
	"STATS":   "database:l total_xact_count:f total_query_count:f total_wait_time:f",
}

// All rows of a command, by column.
func rows(db *sql.DB, command string) ([]map[string]interface{}, error) {
	found, err := db.Query(command)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	columns, err := found.Columns()
	if err != nil {
		return nil, err
	}
	var all []map[string]interface{}
	for found.Next() {
		values, places := make([]interface{}, len(columns)), make([]interface{}, len(columns))
		for n := range values {
			places[n] = &values[n]
		}
		if err := found.Scan(places...); err != nil {
			return nil, err
		}
		row := map[string]interface{}{"": len(columns)}
		for n, column := range columns {
			row[column] = values[n]
		}
		all = append(all, row)
	}
	return all, found.Err()
}

func figure(value interface{}) error {
	// lib/pq gives a numeric as its text, and the exporter parses that.
	if text, is := value.([]byte); is {
		value = string(text)
	}
	if _, err := strconv.ParseFloat(fmt.Sprintf("%s%v", "", value), 64); value != nil && err != nil {
		return fmt.Errorf("%v (%T) is not a figure", value, value)
	}
	return nil
}

func label(value interface{}) error {
	switch value.(type) {
	case nil, string, int64, float64:
		return nil
	}
	return fmt.Errorf("%v (%T) is not a label", value, value)
}

func table(db *sql.DB, name, columns string) error {
	all, err := rows(db, "SHOW "+name+";")
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("no rows")
	}
	for _, row := range all {
		for _, column := range strings.Fields(columns) {
			parts := strings.Split(column, ":")
			value, there := row[parts[0]]
			check := map[string]func(interface{}) error{"l": label, "f": figure}[parts[1]]
			if !there {
				return fmt.Errorf("no column %s", parts[0])
			}
			if err := check(value); err != nil {
				return fmt.Errorf("%s: %w", parts[0], err)
			}
		}
	}
	return nil
}

// SHOW LISTS and SHOW CONFIG: one figure a row, found by its name in the first column.
func list(db *sql.DB, name, column string, widths []int, names string) error {
	all, err := rows(db, "SHOW "+name+";")
	if err != nil {
		return err
	}
	found := map[string]interface{}{}
	for _, row := range all {
		fits := false
		for _, width := range widths {
			fits = fits || row[""] == width
		}
		if !fits {
			return fmt.Errorf("%v columns", row[""])
		}
		for _, key := range []string{"list", "key"} {
			if text, is := row[key].(string); is {
				found[text] = row[column]
			}
		}
	}
	for _, wanted := range strings.Fields(names) {
		value, there := found[wanted]
		if text, is := value.(string); is {
			if _, err := strconv.ParseFloat(text, 64); err != nil {
				return fmt.Errorf("%s: %q is not a figure", wanted, text)
			}
		} else if !there || value == nil {
			return fmt.Errorf("no %s", wanted)
		}
	}
	return nil
}

func main() {
	// The connection string that the exporter's documentation shows; the rest is in the environment.
	db, err := sql.Open("postgres", "dbname=pgbouncer sslmode=disable user="+os.Getenv("STATS_USER"))
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(1)
	fmt.Println("version lib/pq", os.Getenv("VERSION"))
	failed := false
	report := func(name string, err error) {
		if err == nil {
			fmt.Println("ok", name)
			return
		}
		failed = true
		fmt.Printf("FAIL %s %.160s\n", name, strings.Join(strings.Fields(err.Error()), " "))
	}
	for _, name := range []string{"STATS", "DATABASES", "POOLS", "STATS_TOTALS", "CLIENTS"} {
		report(strings.ToLower(name), table(db, name, tables[name]))
	}
	report("lists", list(db, "LISTS", "items", []int{2}, "databases users pools free_clients used_clients login_clients free_servers used_servers dns_names dns_zones dns_queries"))
	report("config", list(db, "CONFIG", "value", []int{3, 4}, "max_client_conn"))
	version, err := rows(db, "SHOW VERSION;")
	if err == nil && (len(version) != 1 || version[0]["version"] == nil) {
		err = fmt.Errorf("not one row with a version")
	}
	report("version", err)
	if failed {
		os.Exit(1)
	}
}
