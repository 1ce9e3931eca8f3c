# A merge, and the UPDATE statements that somebody would write by hand, which do without a proof, a report and a look
# for collisions. Each is rolled back.
needs=merge

run() {
    local round rows
    rows=$(words 100000)
    say "measuring merge merge_updates"
    for ((round = 0; round < rounds; round++)); do
        sample merge ms "$(rolled_back 'select auth.authenticate(:account_token);
            select auth.merge_anonymous_user(:guest_token)')"
        sample merge_updates ms "$(rolled_back "$(printf 'update items_%s set user_id = :account where user_id = :guest;' {1..10})
            delete from auth.users where id = :guest")"
    done
    row "a merge of $rows rows in ten tables" merge 'ten UPDATEs and a DELETE by hand' merge_updates 'ratio <= 1.5'
}

# Milliseconds that statements take; they may name the guest and the account, and their tokens.
rolled_back() {
    psql -At -d merge <<SQL
select quote_literal(id) as guest, quote_literal(token) as guest_token from people where name = 'guest' \gset
select quote_literal(id) as account, quote_literal(token) as account_token from people where name = 'account' \gset
vacuum;
begin;
select clock_timestamp() as begun \gset
\o /dev/null
$1;
\o
select 1000 * extract(epoch from clock_timestamp() - :'begun');
rollback;
SQL
}
