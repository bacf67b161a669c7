# Makes Markdown tables of what compare.sh measured. Two files: the runs (round mode clients target tps latency
# cpu), then idle memory (target, KiB at rest, KiB with idle clients). POSIX awk only.

# Median, lowest and highest of the numbers in a list with spaces, into MID, LOW and HIGH; false if there are none.
function summary(list,    n, values, i, j, swap) {
    n = split(list, values, " ")
    if (n == 0) return 0
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && values[j - 1] + 0 > values[j] + 0; j--) {
            swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap
        }
    LOW = values[1]; HIGH = values[n]
    MID = n % 2 ? values[(n + 1) / 2] : (values[n / 2] + values[n / 2 + 1]) / 2
    return 1
}

function median(list, format) { return summary(list) ? sprintf(format, MID) : "–" }

function spread(list) { return summary(list) ? sprintf("%.2f (%.2f–%.2f)", MID, LOW, HIGH) : "–" }

# Ratios of pglull to PgBouncer, each from two runs of the same round.
function ratios(cell, what,    list, round, ours, theirs) {
    for (round = 1; round <= rounds; round++) {
        ours = figure[round, cell, "pglull", what]; theirs = figure[round, cell, "pgbouncer", what]
        if (ours != "" && theirs + 0 > 0) list = list " " ours / theirs
    }
    return list
}

FILENAME ~ /runs$/ {
    cell = $2 ", " $3
    if (!(cell in seen)) { seen[cell] = 1; cells[++cell_count] = cell }
    if (!($4 in known)) known[$4] = 1
    if ($1 > rounds) rounds = $1
    if ($5 == "failed") { failed[cell, $4]++; next }
    figure[$1, cell, $4, "tps"] = $5; figure[$1, cell, $4, "latency"] = $6; figure[$1, cell, $4, "cpu"] = $7
    tps[cell, $4] = tps[cell, $4] " " $5; latency[cell, $4] = latency[cell, $4] " " $6
    if ($4 != "direct") cpu[cell, $4] = cpu[cell, $4] " " $7
}

FILENAME ~ /idle$/ { idle[$1] = $2; busy[$1] = $3; any_idle = 1 }

END {
    split("direct pgbouncer pglull", order, " ")
    print "| mode, clients | target | TPS | mean latency ms | proxy CPU µs/transaction |"
    print "|---|---|---|---|---|"
    for (c = 1; c <= cell_count; c++)
        for (t = 1; t <= 3; t++) {
            if (!(order[t] in known)) continue
            k = cells[c] SUBSEP order[t]
            note = failed[k] ? sprintf(" (%d failed)", failed[k]) : ""
            printf "| %s | %s | %s%s | %s | %s |\n", cells[c], order[t], median(tps[k], "%.0f"), note, \
                median(latency[k], "%.3f"), median(cpu[k], "%.1f")
        }
    print "\nRatios pglull ÷ PgBouncer, taken within each round: median (lowest–highest).\n"
    print "| mode, clients | TPS (more is better) | latency (less is better) | CPU/transaction (less is better) |"
    print "|---|---|---|---|"
    for (c = 1; c <= cell_count; c++)
        printf "| %s | %s | %s | %s |\n", cells[c], spread(ratios(cells[c], "tps")), \
            spread(ratios(cells[c], "latency")), spread(ratios(cells[c], "cpu"))
    if (!any_idle) exit
    printf "\n| memory | RSS at rest KiB | with %d idle clients KiB | KiB per idle client |\n", idle_clients
    print "|---|---|---|---|"
    for (t = 2; t <= 3; t++)
        if (order[t] in idle)
            printf "| %s | %d | %d | %.1f |\n", order[t], idle[order[t]], busy[order[t]], \
                (busy[order[t]] - idle[order[t]]) / idle_clients
    if (idle["pgbouncer"] && idle["pglull"] && busy["pgbouncer"] > idle["pgbouncer"])
        printf "| ratio pglull ÷ PgBouncer | %.2f | %.2f | %.2f |\n", idle["pglull"] / idle["pgbouncer"], \
            busy["pglull"] / busy["pgbouncer"], \
            (busy["pglull"] - idle["pglull"]) / (busy["pgbouncer"] - idle["pgbouncer"])
}
