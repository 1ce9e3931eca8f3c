select auth.sign_in_anonymously();
