# Sign-in, with ES256, the default.
needs=empty

run() {
    measure /s sign_in="sign_in app empty 8 -T2" sign_in_insert="sign_in_insert postgres empty 8 -T2"
    row 'sign_in_anonymously(), 8 clients' sign_in \
        'one statement that inserts the same two rows' sign_in_insert 'ratio >= 0.75'
}
