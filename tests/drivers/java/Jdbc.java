// pgjdbc: extended protocol, named statements from the first use (prepareThreshold=1 and -1), batches, CopyManager, fetch size.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.sql.Connection;
import java.sql.Driver;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import org.postgresql.PGConnection;

public class Jdbc {
    interface Step { void run(Connection c) throws Exception; }

    static class Skip extends Exception { Skip(String why) { super(why); } }

    static final Map<String, String> ENV = System.getenv();
    static final String TABLE = ENV.getOrDefault("TABLE", "items");
    static final String TEXT = "naïve 漢字 😀 \u0301 'quoted' \\ \t";
    static final String[] TAGS = {"plain", "quo\"te", "comma,", "back\\slash", "", null, "NULL", "ü"};
    static final int BIG = 4 << 20;

    static Connection opened(String options) throws SQLException {
        String url = "jdbc:postgresql://" + ENV.get("PGHOST") + ":" + ENV.get("PGPORT") + "/" + ENV.get("PGDATABASE");
        return DriverManager.getConnection(url + "?sslmode=disable" + options, ENV.get("PGUSER"), ENV.get("PGPASSWORD"));
    }

    static Connection opened() throws SQLException { return opened("&prepareThreshold=1"); }

    static PreparedStatement filled(Connection c, String sql, Object... values) throws SQLException {
        PreparedStatement s = c.prepareStatement(sql);
        for (int n = 0; n < values.length; n++) s.setObject(n + 1, values[n]);
        return s;
    }

    static int change(Connection c, String sql, Object... values) throws SQLException {
        try (PreparedStatement s = filled(c, sql, values)) { return s.executeUpdate(); }
    }

    static void run(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement()) { s.execute(sql); }
    }

    static Object one(Connection c, String sql, Object... values) throws SQLException {
        try (PreparedStatement s = filled(c, sql, values); ResultSet rows = s.executeQuery()) { rows.next(); return rows.getObject(1); }
    }

    static void same(Object got, Object want) {
        if (!Objects.deepEquals(got, want)) throw new AssertionError("got " + got + ", expected " + want);
    }

    /** Fails the step unless the body ends in an error of that SQLSTATE (without one: in any error). */
    static void raises(String want, Step body, Connection c) throws Exception {
        try { body.run(c); } catch (SQLException e) {
            if (want == null || want.equals(e.getSQLState())) return;
            throw e;
        }
        throw new AssertionError("no error, expected " + want);
    }

    static void connect(Connection c) throws Exception {
        same(one(c, "SELECT 1"), 1);
        same(c.getMetaData().getDatabaseMajorVersion() >= 14, true);
        run(c, "TRUNCATE " + TABLE);
    }

    static void crud(Connection c) throws Exception {
        same(change(c, "INSERT INTO " + TABLE + "(id, name) VALUES (?, ?), (2, 'b')", 1, "a"), 2);
        change(c, "UPDATE " + TABLE + " SET name = ? WHERE id = ?", "c", 1);
        same(one(c, "SELECT name FROM " + TABLE + " WHERE id = ?", 1), "c");
        same(change(c, "DELETE FROM " + TABLE), 2);
    }

    static void transaction(Connection c) throws Exception {
        c.setAutoCommit(false);
        change(c, "INSERT INTO " + TABLE + "(id) VALUES (?)", 10);
        change(c, "INSERT INTO " + TABLE + "(id) VALUES (?)", 11);
        c.commit();
        c.setAutoCommit(true);
        same(one(c, "SELECT count(*) FROM " + TABLE + " WHERE id IN (10, 11)"), 2L);
    }

    static void rollback(Connection c) throws Exception {
        String count = "SELECT count(*) FROM " + TABLE + " WHERE id IN (20, 21)";
        c.setAutoCommit(false);
        change(c, "INSERT INTO " + TABLE + "(id) VALUES (20)");
        var inner = c.setSavepoint();
        change(c, "INSERT INTO " + TABLE + "(id) VALUES (21)");
        c.rollback(inner);
        same(one(c, count), 1L);
        c.rollback();
        c.setAutoCommit(true);
        same(one(c, count), 0L);
    }

    static void prepared(Connection c) throws Exception {
        try (PreparedStatement plus = c.prepareStatement("SELECT ?::int + 1"); PreparedStatement upper = c.prepareStatement("SELECT upper(?::text)")) {
            for (int n = 0; n < 30; n++) {
                plus.setInt(1, n);
                upper.setString(1, "n" + n);
                try (ResultSet a = plus.executeQuery(); ResultSet b = upper.executeQuery()) {
                    a.next(); b.next();
                    same(a.getInt(1), n + 1);
                    same(b.getString(1), "N" + n);
                }
            }
        }
    }

    static void reprepared(Connection c) throws Exception {
        String[] kinds = {"&preparedStatementCacheQueries=0&prepareThreshold=1", "&prepareThreshold=-1", "&prepareThreshold=0",
            "&prepareThreshold=2&preparedStatementCacheQueries=3", "&preferQueryMode=simple"};
        for (String kind : kinds) {
            try (Connection other = opened(kind)) { // every connection names its statements S_1, S_2, ...
                for (int n = 0; n < 20; n++) same(one(other, "SELECT ?::int + " + n % 5, n), n + n % 5);
                run(other, "DEALLOCATE ALL"); // the driver hears of it and prepares again
                same(one(other, "SELECT ?::int + 1", 1), 2);
            }
        }
    }

    static void batch(Connection c) throws Exception {
        try (PreparedStatement s = c.prepareStatement("INSERT INTO " + TABLE + "(id) VALUES (?)")) {
            for (int n = 100; n < 400; n++) { s.setInt(1, n); s.addBatch(); }
            same(Arrays.stream(s.executeBatch()).sum(), 300);
        }
        try (Statement s = c.createStatement()) {
            s.addBatch("DELETE FROM " + TABLE + " WHERE id = 399");
            s.addBatch("SELECT 1 / 0");
            s.addBatch("DELETE FROM " + TABLE + " WHERE id = 398");
            raises("22012", x -> s.executeBatch(), c);
        }
        same(one(c, "SELECT count(*) FROM " + TABLE + " WHERE id BETWEEN 100 AND 399"), 300L);
    }

    static void copy(Connection c) throws Exception {
        var copies = c.unwrap(PGConnection.class).getCopyAPI();
        var rows = new StringBuilder();
        for (int n = 1000; n < 2000; n++) rows.append(n).append("\trow ").append(n).append('\n');
        same(copies.copyIn("COPY " + TABLE + "(id, name) FROM STDIN", new StringReader(rows.toString())), 1000L);
        var found = new ByteArrayOutputStream();
        same(copies.copyOut("COPY (SELECT id FROM " + TABLE + " WHERE id >= 1000) TO STDOUT", found), 1000L);
        same(found.toString().lines().count(), 1000L);
        raises("22P02", x -> copies.copyIn("COPY " + TABLE + "(id) FROM STDIN", new StringReader("not a number\n")), c);
        copies.copyIn("COPY " + TABLE + "(id) FROM STDIN").cancelCopy();
        same(one(c, "SELECT 1"), 1);
    }

    static void cursor(Connection c) throws Exception {
        c.setAutoCommit(false);
        try (PreparedStatement s = filled(c, "SELECT generate_series(1, ?::int)", 500)) {
            s.setFetchSize(100);
            int sum = 0;
            try (ResultSet rows = s.executeQuery()) { while (rows.next()) sum += rows.getInt(1); }
            same(sum, 125250);
        }
        c.commit();
        c.setAutoCommit(true);
    }

    static void cancel(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            s.setQueryTimeout(1); // the driver sends a cancel request
            raises("57014", x -> s.execute("SELECT pg_sleep(20)"), c);
        }
        same(one(c, "SELECT 1"), 1);
    }

    static void timeout(Connection c) throws Exception {
        c.setAutoCommit(false);
        run(c, "SET LOCAL statement_timeout = '100ms'");
        raises("57014", x -> run(x, "SELECT pg_sleep(20)"), c);
        c.rollback();
        c.setAutoCommit(true);
        same(one(c, "SELECT 1"), 1);
    }

    static void error(Connection c) throws Exception {
        raises("22012", x -> one(x, "SELECT 10 / ?::int", 0), c);
        c.setAutoCommit(false);
        raises("42703", x -> run(x, "SELECT nothing"), c);
        raises("25P02", x -> run(x, "SELECT 1"), c);
        c.rollback();
        c.setAutoCommit(true);
        same(one(c, "SELECT 10 / ?::int", 2), 5);
    }

    static void nulls(Connection c) throws Exception {
        change(c, "INSERT INTO " + TABLE + "(id, name) VALUES (?, ?)", 30, null);
        same(one(c, "SELECT name FROM " + TABLE + " WHERE id = 30"), null);
    }

    static void binary(Connection c) throws Exception {
        byte[] all = new byte[256];
        for (int n = 0; n < 256; n++) all[n] = (byte) n;
        change(c, "INSERT INTO " + TABLE + "(id, data) VALUES (?, ?)", 40, all);
        same(one(c, "SELECT data FROM " + TABLE + " WHERE id = 40"), all);
    }

    static void array(Connection c) throws Exception {
        change(c, "INSERT INTO " + TABLE + "(id, tags) VALUES (?, ?)", 50, c.createArrayOf("text", TAGS));
        try (PreparedStatement s = filled(c, "SELECT tags FROM " + TABLE + " WHERE id = 50"); ResultSet rows = s.executeQuery()) {
            rows.next();
            same(rows.getArray(1).getArray(), TAGS);
        }
    }

    static void unicode(Connection c) throws Exception {
        same(one(c, "SELECT ?::text", TEXT), TEXT);
        same(one(c, "SELECT length(?::text)", TEXT), TEXT.codePointCount(0, TEXT.length()));
    }

    static void latin1(Connection c) throws Exception { throw new Skip("the driver speaks UTF-8 only"); }

    static void large(Connection c) throws Exception {
        change(c, "INSERT INTO " + TABLE + "(id, name) VALUES (60, ?)", "x".repeat(BIG));
        same(((String) one(c, "SELECT name FROM " + TABLE + " WHERE id = 60")).length(), BIG);
        try (Statement s = c.createStatement(); ResultSet rows = s.executeQuery("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n")) {
            int count = 0;
            while (rows.next()) count++;
            same(count, 20000);
        }
    }

    static void settings(Connection c) throws Exception {
        run(c, "SET TIME ZONE 'Asia/Tokyo'");
        try (Connection other = opened("&options=-c%20IntervalStyle=iso_8601&ApplicationName=options&assumeMinServerVersion=9.0")) {
            for (int n = 0; n < 20; n++) {
                same(one(c, "SELECT current_setting('TimeZone')"), "Asia/Tokyo");
                same(one(other, "SELECT current_setting('IntervalStyle')"), "iso_8601");
            }
        }
        run(c, "RESET TIME ZONE");
    }

    static void reconnect(Connection c) throws Exception {
        for (int n = 0; n < 5; n++) {
            try (Connection other = opened()) { same(one(other, "SELECT ?::int", n), n); same(other.isValid(5), true); }
        }
        raises(null, x -> one(x, "SELECT pg_terminate_backend(pg_backend_pid())"), c);
        try (Connection other = opened()) { same(one(other, "SELECT ?::int", 7), 7); }
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Step> steps = new LinkedHashMap<>();
        steps.put("connect", Jdbc::connect); steps.put("crud", Jdbc::crud); steps.put("transaction", Jdbc::transaction);
        steps.put("rollback", Jdbc::rollback); steps.put("prepared", Jdbc::prepared); steps.put("reprepared", Jdbc::reprepared);
        steps.put("batch", Jdbc::batch); steps.put("copy", Jdbc::copy); steps.put("cursor", Jdbc::cursor);
        steps.put("cancel", Jdbc::cancel); steps.put("timeout", Jdbc::timeout); steps.put("error", Jdbc::error);
        steps.put("null", Jdbc::nulls); steps.put("binary", Jdbc::binary); steps.put("array", Jdbc::array);
        steps.put("unicode", Jdbc::unicode); steps.put("latin1", Jdbc::latin1); steps.put("large", Jdbc::large);
        steps.put("settings", Jdbc::settings); steps.put("reconnect", Jdbc::reconnect);

        Driver driver = DriverManager.getDriver("jdbc:postgresql:");
        System.out.println("version " + org.postgresql.util.DriverInfo.DRIVER_VERSION + " (" + driver.getMajorVersion() + ")");
        boolean failed = false;
        for (int lap = 0; lap < Integer.parseInt(ENV.getOrDefault("LAPS", "1")); lap++) {
            Connection c = null;
            for (var step : steps.entrySet()) {
                try {
                    if (c == null) c = opened();
                    step.getValue().run(c);
                    System.out.println("ok " + step.getKey());
                } catch (Skip why) {
                    System.out.println("skip " + step.getKey() + " " + why.getMessage());
                } catch (Exception | AssertionError e) {
                    failed = true;
                    String state = e instanceof SQLException s ? s.getSQLState() : "";
                    String reason = (state + " " + e).replaceAll("\\s+", " ");
                    System.out.println("FAIL " + step.getKey() + " " + reason.substring(0, Math.min(160, reason.length())));
                    try { if (c != null) c.close(); } catch (SQLException broken) { /* it is broken already */ }
                    c = null;
                }
            }
            if (c != null) c.close();
        }
        System.exit(failed ? 1 : 0);
    }
}
