# Clean-up that finds nothing to do: what a schedule of every few minutes costs.
needs="guests_100k guests_5m"

run() {
    local few many
    few=$(words 100000) many=$(words 5000000)
    measure ms cleanup_100k="cleanup postgres guests_100k 1 -t100" cleanup_5m="cleanup postgres guests_5m 1 -t100"
    row "clean-up, nothing expired, $many guests" cleanup_5m "$few guests" cleanup_100k 'ratio <= 1.5'
    row "clean-up, nothing expired, $many guests" cleanup_5m '' '' 'value <= 2'
}
