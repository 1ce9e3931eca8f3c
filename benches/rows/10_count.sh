# Policies on every row of a sequential scan.
needs=documents

run() {
    local rows
    rows=$(words 1000000)
    measure ms count="count app documents 1 -t4" count_literal="count_claims literal documents 1 -t4" \
        either="count either documents 1 -t4" either_wrapped="count either_wrapped documents 1 -t4"
    row "count(*) of $rows rows, policy user_id = auth.uid()" count \
        'a literal in its place' count_literal 'ratio <= 1.10'
    row "the same, user_id = auth.uid() or (auth.jwt()->>'is_anonymous')::boolean is false" either \
        'both sides in (select …) by hand' either_wrapped 'ratio <= 4'

    measure ms either_once="count either_once documents 1 -t4" either_wrapped_again="count either_wrapped documents 1 -t4"
    row 'the same, anon_auth.evaluate_once on' either_once 'both sides in (select …) by hand' \
        either_wrapped_again 'ratio <= 1.3'

    rounds=1 measure ms count_customary="count_claims customary documents 1 -t1"
    row "the first, readers as SQL functions over request.jwt.claims" count_customary \
        'auth.uid()' count 'ratio >= 50'
}
