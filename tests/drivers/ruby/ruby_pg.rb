# Ruby pg: libpq with named statements, pipeline mode, COPY.
require "pg"

TABLE = ENV.fetch("TABLE", "items")
ALL_BYTES = (0..255).to_a.pack("C*")
TAGS = ["plain", 'quo"te', "comma,", "back\\slash", "", nil, "NULL", "ü"].freeze
TEXT = "naïve 漢字 😀 \u0301 'quoted' \\ \t".freeze
BIG = 4 << 20

# Host, port, user, password and database are in the environment.
def opened(**options) = PG.connect(**options)
def one(c, sql, *values) = c.exec_params(sql, values).getvalue(0, 0)

def same(got, want)
  raise "got #{got.inspect[0, 80]}, expected #{want.inspect[0, 80]}" unless got == want
end

# Fails the step unless the block ends in an error of that SQLSTATE (without one: in any error).
def raises(want = nil)
  yield
rescue PG::Error => e
  state = e.respond_to?(:result) && e.result ? e.result.error_field(PG::PG_DIAG_SQLSTATE) : nil
  raise unless want.nil? || state == want
else
  raise "no error, expected #{want}"
end

STEPS = {
  connect: lambda { |c|
    same(one(c, "SELECT 1"), "1")
    same(c.server_version >= 140_000, true)
    c.exec("TRUNCATE #{TABLE}")
  },
  crud: lambda { |c|
    same(c.exec_params("INSERT INTO #{TABLE}(id, name) VALUES ($1, $2), (2, 'b')", [1, "a"]).cmd_tuples, 2)
    c.exec_params("UPDATE #{TABLE} SET name = $1 WHERE id = $2", ["c", 1])
    same(one(c, "SELECT name FROM #{TABLE} WHERE id = $1", 1), "c")
    same(c.exec("DELETE FROM #{TABLE}").cmd_tuples, 2)
  },
  transaction: lambda { |c|
    c.transaction do
      c.exec_params("INSERT INTO #{TABLE}(id) VALUES ($1)", [10])
      c.exec_params("INSERT INTO #{TABLE}(id) VALUES ($1)", [11])
    end
    same(one(c, "SELECT count(*) FROM #{TABLE} WHERE id IN (10, 11)"), "2")
  },
  rollback: lambda { |c|
    c.exec("BEGIN")
    c.exec("INSERT INTO #{TABLE}(id) VALUES (20)")
    c.exec("SAVEPOINT a; INSERT INTO #{TABLE}(id) VALUES (21); ROLLBACK TO a")
    same(one(c, "SELECT count(*) FROM #{TABLE} WHERE id IN (20, 21)"), "1")
    c.exec("ROLLBACK")
    same(one(c, "SELECT count(*) FROM #{TABLE} WHERE id IN (20, 21)"), "0")
  },
  prepared: lambda { |c|
    c.prepare("plus", "SELECT $1::int + 1")
    c.prepare("upper", "SELECT upper($1::text)")
    30.times do |n|
      same(c.exec_prepared("plus", [n]).getvalue(0, 0), (n + 1).to_s)
      same(c.exec_prepared("upper", ["n#{n}"]).getvalue(0, 0), "N#{n}")
    end
    same(c.describe_prepared("plus").paramtype(0), 23)
    c.exec("DEALLOCATE plus")
    c.exec("DEALLOCATE upper")
  },
  reprepared: lambda { |c|
    10.times do |n|
      c.prepare("again", "SELECT $1::int + #{n}")
      raises("42P05") { c.prepare("again", "SELECT 100") }
      same(c.exec_prepared("again", [n]).getvalue(0, 0), (n + n).to_s)
      c.exec(n.even? ? "DEALLOCATE again" : "DEALLOCATE ALL")
      raises("26000") { c.exec_prepared("again", [n]) }
    end
  },
  batch: lambda { |c|
    c.enter_pipeline_mode
    50.times { |n| c.send_query_params("SELECT $1::int", [n]) }
    c.pipeline_sync
    50.times do |n|
      same(c.get_last_result.getvalue(0, 0), n.to_s)
    end
    same(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
    %w[1 0 2].each { |n| c.send_query_params("SELECT 1 / $1::int", [n]) }
    c.pipeline_sync
    same(c.get_last_result.getvalue(0, 0), "1")
    raises("22012") { c.get_last_result }
    same(c.get_result.result_status, PG::PGRES_PIPELINE_ABORTED)
    same(c.get_result, nil)
    same(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
    c.exit_pipeline_mode
    raises("22012") { c.exec("SELECT 1; SELECT 1 / 0; SELECT 2") }
  },
  copy: lambda { |c|
    c.copy_data("COPY #{TABLE}(id, name) FROM STDIN") { (1000...2000).each { |n| c.put_copy_data("#{n}\trow #{n}\n") } }
    found = []
    c.copy_data("COPY (SELECT id FROM #{TABLE} WHERE id >= 1000 ORDER BY id) TO STDOUT") do
      while (row = c.get_copy_data) do found << row.to_i end
    end
    same(found, (1000...2000).to_a)
    raises("22P02") { c.copy_data("COPY #{TABLE}(id) FROM STDIN") { c.put_copy_data("not a number\n") } }
    same(one(c, "SELECT 1"), "1")
  },
  cursor: lambda { |c|
    c.transaction do
      c.exec("DECLARE portal CURSOR FOR SELECT generate_series(1, 500)")
      same((1..5).sum { c.exec("FETCH 100 FROM portal").column_values(0).sum(&:to_i) }, 125_250)
    end
    sum = 0
    c.send_query_params("SELECT generate_series(1, $1::int)", [500]) # row by row
    c.set_single_row_mode
    c.get_result.stream_each { |row| sum += row["generate_series"].to_i }
    same(sum, 125_250)
  },
  cancel: lambda { |c|
    timer = Thread.new { sleep(0.2) && c.cancel }
    raises("57014") { c.exec("SELECT pg_sleep(20)") }
    timer.join
    same(one(c, "SELECT 1"), "1")
  },
  timeout: lambda { |c|
    c.exec("BEGIN; SET LOCAL statement_timeout = '100ms'")
    raises("57014") { c.exec("SELECT pg_sleep(20)") }
    c.exec("ROLLBACK")
    same(one(c, "SELECT 1"), "1")
  },
  error: lambda { |c|
    raises("22012") { one(c, "SELECT 1 / $1::int", 0) }
    c.exec("BEGIN")
    raises("42703") { c.exec("SELECT nothing") }
    raises("25P02") { c.exec("SELECT 1") }
    c.exec("ROLLBACK")
    same(one(c, "SELECT 10 / $1::int", 2), "5")
  },
  null: lambda { |c|
    c.exec_params("INSERT INTO #{TABLE}(id, name) VALUES ($1, $2)", [30, nil])
    same(one(c, "SELECT name FROM #{TABLE} WHERE id = 30"), nil)
  },
  binary: lambda { |c|
    c.exec_params("INSERT INTO #{TABLE}(id, data) VALUES ($1, $2)", [40, { value: ALL_BYTES, format: 1 }])
    same(c.exec_params("SELECT data FROM #{TABLE} WHERE id = 40", [], 1).getvalue(0, 0), ALL_BYTES)
  },
  array: lambda { |c|
    c.exec_params("INSERT INTO #{TABLE}(id, tags) VALUES ($1, $2)", [50, PG::TextEncoder::Array.new.encode(TAGS)])
    same(PG::TextDecoder::Array.new.decode(one(c, "SELECT tags FROM #{TABLE} WHERE id = 50")), TAGS)
  },
  unicode: lambda { |c|
    same(one(c, "SELECT $1::text", TEXT), TEXT)
    same(one(c, "SELECT length($1::text)", TEXT), TEXT.length.to_s)
  },
  latin1: lambda { |c|
    other = opened(client_encoding: "LATIN1")
    c.set_client_encoding("LATIN1")
    [c, other].each do |one|
      10.times do
        found = one.exec_params("SELECT convert_to($1, 'UTF8'), $1 || chr(233)", ["é".encode("ISO-8859-1")])
        same(found.getvalue(0, 0), "\\xc3a9")
        same(found.getvalue(0, 1).bytes, [0xe9, 0xe9])
      end
    end
    other.close
    c.set_client_encoding("UTF8")
    same(one(c, "SELECT chr(233)"), "é")
  },
  large: lambda { |c|
    c.exec_params("INSERT INTO #{TABLE}(id, name) VALUES (60, $1)", ["x" * BIG])
    same(one(c, "SELECT name FROM #{TABLE} WHERE id = 60").length, BIG)
    same(c.exec("SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n").ntuples, 20_000)
  },
  settings: lambda { |c|
    c.exec("SET TIME ZONE 'Asia/Tokyo'")
    other = opened(options: "-c TimeZone=Asia/Tokyo", application_name: "options")
    20.times { [c, other].each { |one| same(one(one, "SELECT current_setting('TimeZone')"), "Asia/Tokyo") } }
    other.close
    c.exec("RESET TIME ZONE")
  },
  reconnect: lambda { |c|
    5.times do |n|
      c.reset
      same(one(c, "SELECT $1::int", n), n.to_s)
    end
    raises { c.exec("SELECT pg_terminate_backend(pg_backend_pid())") }
    c.reset
    same(one(c, "SELECT $1::int", 7), "7")
  },
}.freeze

$stdout.sync = true
puts "version #{PG::VERSION} libpq #{PG.library_version}"
failed = false
ENV.fetch("LAPS", "1").to_i.times do
  c = nil
  STEPS.each do |name, step|
    c ||= opened
    step.call(c)
    puts "ok #{name}"
  rescue StandardError => e
    failed = true
    puts "FAIL #{name} #{e.class}: #{e.message.split.join(' ')}"[0, 180]
    c&.close rescue nil
    c = nil
  end
  c&.close
end
exit(failed ? 1 : 0)
