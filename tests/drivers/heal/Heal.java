// pgjdbc with prepareThreshold=1: named statements from the first use, whose result is described once.

import java.io.File;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;

public class Heal {
    static final Map<String, String> ENV = System.getenv();
    static final File STOP = new File(ENV.get("STOP"));
    /** How long anybody may take to end once STOP is there, in milliseconds. */
    static final long GRACE = 20_000;
    static volatile boolean over;
    static final String[] STATEMENTS = {
        "SELECT * FROM healed WHERE id = ?",
        "SELECT id, name FROM healed WHERE id = ?",
        "SELECT id, amount FROM healed WHERE id = ?",
        "SELECT h.*, o.name AS other FROM healed h JOIN healed o USING (id) WHERE h.id = ?",
        "UPDATE healed SET note = 'n' WHERE id = ? RETURNING *",
    };
    static final AtomicLong statements = new AtomicLong(), errors = new AtomicLong(), blocks = new AtomicLong(),
        failed = new AtomicLong(), odd = new AtomicLong(), slowest = new AtomicLong();
    static final List<String> shown = new ArrayList<>();

    static Connection opened() throws SQLException {
        String url = "jdbc:postgresql://" + ENV.get("PGHOST") + ":" + ENV.get("PGPORT") + "/" + ENV.get("PGDATABASE");
        return DriverManager.getConnection(url + "?sslmode=disable&prepareThreshold=1", ENV.get("PGUSER"), ENV.get("PGPASSWORD"));
    }

    static void show(String text) {
        synchronized (shown) { if (shown.size() < 5) shown.add(text.replaceAll("\\s+", " ")); }
    }

    static void check(ResultSet rows, int key) throws SQLException {
        if (!rows.next()) throw new IllegalStateException("no row for " + key);
        ResultSetMetaData about = rows.getMetaData();
        for (int n = 1; n <= about.getColumnCount(); n++) {
            String got = rows.getString(n), name = about.getColumnLabel(n), want = switch (name) {
                case "id" -> "" + key;
                case "name", "other" -> "name" + key;
                case "amount" -> "" + key * 10;
                case "note" -> "n";
                case "extra" -> "e";
                default -> null;
            };
            if (want == null ? got != null : !want.equals(got)) throw new IllegalStateException(name + " of " + key + " is " + got);
        }
    }

    static void ask(Connection c, String sql, int key) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(sql)) {
            s.setInt(1, key);
            try (ResultSet rows = s.executeQuery()) { check(rows, key); }
        }
    }

    static void lives(int number) {
        int turn = number;
        try (Connection c = opened()) {
            while (!over) {
                turn++;
                String sql = STATEMENTS[turn % STATEMENTS.length];
                long began = System.nanoTime();
                try {
                    ask(c, sql, turn * 7 % 100 + 1);
                    if (statements.incrementAndGet() == 200) System.out.println("ready");
                } catch (Exception e) {
                    errors.incrementAndGet();
                    show(sql + ": " + e);
                }
                slowest.accumulateAndGet(System.nanoTime() - began, Math::max);
            }
        } catch (SQLException e) {
            errors.incrementAndGet();
            show("connection: " + e);
        }
    }

    static void inBlocks() {
        try (Connection c = opened()) {
            c.setAutoCommit(false);
            while (!over) {
                try {
                    for (int n = 0; n < 3; n++) ask(c, STATEMENTS[n], n + 1);
                    c.commit();
                    blocks.incrementAndGet();
                } catch (Exception e) {
                    failed.incrementAndGet();
                    if (!String.valueOf(e.getMessage()).contains("cached plan must not change result type")) {
                        odd.incrementAndGet();
                        show("in a transaction: " + e);
                    }
                    c.rollback();
                }
            }
        } catch (SQLException e) {
            odd.incrementAndGet();
            show("connection: " + e);
        }
    }

    public static void main(String[] args) throws Exception {
        List<Thread> threads = new ArrayList<>();
        for (int n = 0; n < 16; n++) {
            int number = n;
            threads.add(new Thread(() -> lives(number)));
        }
        threads.add(new Thread(Heal::inBlocks));
        for (Thread t : threads) { t.setDaemon(true); t.start(); }
        while (!STOP.exists()) Thread.sleep(50);
        over = true;
        long end = System.nanoTime() + GRACE * 1_000_000;
        for (Thread t : threads) t.join(Math.max(1, (end - System.nanoTime()) / 1_000_000));
        int stuck = 0;
        for (Thread t : threads) if (t.isAlive()) stuck = 1;
        for (String text : shown) System.out.println("ERROR " + text);
        System.out.println("figures statements=" + statements + " errors=" + errors + " blocks=" + blocks + " changed=" + failed + " odd=" + odd
            + " stuck=" + stuck + " slowest_ms=" + slowest.get() / 1_000_000 + " version=pgjdbc-" + org.postgresql.Driver.class.getPackage().getImplementationVersion());
        System.exit(0);
    }
}
