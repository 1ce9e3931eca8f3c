# A transaction that authenticates and reads a row by key.
needs=documents

run() {
    measure /s read="read app documents 1 -T1" read_unchecked="read app_unchecked documents 1 -T1" \
        read_literal="read_claims literal documents 1 -T1"
    row 'authenticate and a guarded read by key, one client' read \
        'set_config and a literal' read_literal 'ratio >= 0.75'
    row 'the same, anon_auth.check_session off' read_unchecked 'set_config and a literal' read_literal
}
